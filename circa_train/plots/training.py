"""How trainings went: loss and accuracy by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.ticker import PercentFormatter

from circa_train.plots.drawing import grid, legend
from circa_train.plots.style import Note, NotedFigure, dress, plain, series_style, whole_numbers

#: Of one figure; more cannot be told apart, and the last that were started say most.
MOST = 12


def training_curves(histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> NotedFigure:
    """Training and validation loss (left), and validation accuracy (right), by epoch, of each training.

    Args:
        histories: by the name of the training the rows of its ``metrics.jsonl``
            (:func:`circa_train.runs.metrics.read_metrics`). Of more than ``MOST`` the last are drawn, and the
            title says how many there are.

    Raises:
        ValueError: if no training has an epoch.
    """
    known = {name: [row for row in rows if "epoch" in row] for name, rows in histories.items()}
    known = {name: rows for name, rows in known.items() if rows}
    if not known:
        raise ValueError("no training with the metrics of an epoch")
    shown = dict(list(known.items())[-MOST:])
    figure, ((left, right),) = grid([list(shown)], 2)
    for index, (name, rows) in enumerate(shown.items()):
        style = series_style(index)
        epochs = [row["epoch"] for row in rows]
        for axes, column, dashed in (
            (left, "train_loss", False),
            (left, "validation_loss", True),
            (right, "validation_accuracy", False),
        ):
            values = [row.get(column) for row in rows]
            axes.plot(
                epochs,
                [float("nan") if value is None else value for value in values],
                label=plain(name) if not dashed else "_",
                color=style.color,
                marker=style.marker,
                markersize=3.5,
                linestyle="--" if dashed else "-",
                linewidth=1.3,
            )
        figure.notes += [
            Note(right, row["epoch"], row["validation_accuracy"], _told(name, row))
            for row in rows
            if row.get("validation_accuracy") is not None
        ]
    for axes in (left, right):
        whole_numbers(axes.xaxis)
    right.yaxis.set_major_formatter(PercentFormatter(1.0))
    left_out = f" (the last {len(shown)} of {len(known)})" if len(shown) < len(known) else ""
    dress(left, title=f"loss: training, dashed: validation{left_out}", xlabel="epoch", ylabel="cross-entropy")
    dress(right, title="validation", xlabel="epoch", ylabel="validation accuracy")
    legend(left)
    return figure


def _told(name: str, row: Mapping[str, Any]) -> str:
    loss = row.get("train_loss")
    trained = "" if loss is None else f"\ntraining loss {loss:.4g}"
    return f"{name}, epoch {row['epoch']}\nvalidation accuracy {row['validation_accuracy']:.2%}{trained}"
