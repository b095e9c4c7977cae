"""What accuracy costs: accuracy against bytes of garbled tables per inference."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from circa_train.plots.series import group, require_one
from circa_train.plots.style import GREY, dress, mode_name, mode_rank, new_figure, series_style
from circa_train.runs import Row

_MEBI = 2**20


def pareto_front(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The (cost, value) points that no other beats in both, by rising cost.

    >>> pareto_front([(1, 0.5), (2, 0.4), (3, 0.9)])
    [(1, 0.5), (3, 0.9)]
    """
    front: list[tuple[float, float]] = []
    for cost, value in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or value > front[-1][1]:
            front.append((cost, value))
    return front


def accuracy_vs_bytes(rows: Sequence[Row]) -> Figure:
    """Accuracy against garbled-table bytes per inference (32 B per AND gate of the sign tests), with the
    Pareto front.

    Several models of one data set may share the figure; each (model, fine-tuned or not) is a series, each
    point says its k.

    Raises:
        MixedExperiments: if the rows hold several data sets or splits.
        ValueError: if no evaluation has a cost.
    """
    rows = [row for row in rows if row.get("table_bytes")]
    if not rows:
        raise ValueError("no evaluation with a cost in bytes")
    shared = require_one(rows, ("data", "split"), "accuracy against bytes")
    figure, axes = new_figure()
    points = [(row["table_bytes"] / _MEBI, row["accuracy"]) for row in rows]
    front = pareto_front(points)
    steps, heights = [x for x, _ in front], [y for _, y in front]
    axes.step(
        steps, heights, where="post", color=GREY, linewidth=1, label="Pareto front, with its k", zorder=1
    )
    series = group(
        rows,
        lambda row: (
            str(row["model"]),
            bool(row.get("finetuned")),
            mode_rank(row.get("mode")),
            # sign tests by site, and exact ReLUs, have no mode of their own
            row.get("mode") or {"none": "exact"}.get(row["fault"], row["fault"]),
        ),
    )
    for index, ((model, tuned, _, mode), members) in enumerate(
        sorted(series.items(), key=lambda item: item[0][:3])
    ):
        style = series_style(index)
        axes.plot(
            [row["table_bytes"] / _MEBI for row in members],
            [row["accuracy"] for row in members],
            linestyle="none",
            marker=style.marker,
            markerfacecolor="none",  # points of two series at one place both show
            markeredgecolor=style.color,
            markeredgewidth=1.6,
            markersize=7,
            label=f"{model}, {mode_name(mode)}{', fine-tuned' if tuned else ''}",
        )
    unlabelled = set(front)
    for row, point in zip(rows, points, strict=True):
        if point in unlabelled and row.get("k") is not None:
            unlabelled.discard(point)
            offset = {"textcoords": "offset points", "xytext": (0, 6), "ha": "center"}
            axes.annotate(str(row["k"]), point, fontsize=7, color=GREY, **offset)
    axes.margins(x=0.06, y=0.08)  # room for the outermost numbers
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    dress(
        axes,
        title=str(shared["data"]),
        xlabel="garbled tables per inference (MiB)",
        ylabel=f"{shared['split']} accuracy",
    )
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    return figure
