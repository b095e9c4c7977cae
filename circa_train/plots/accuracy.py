"""Accuracy against the truncation k, and against a uniform fault rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from circa_train.plots.series import Point, accuracy_points, group, knee, require_one
from circa_train.plots.style import GREY, dress, mode_name, mode_rank, new_figure, series_style
from circa_train.runs import Row


def accuracy_vs_k(rows: Sequence[Row], *, tolerance: float = 0.01) -> Figure:
    """Accuracy against k for each mode, before and after fine-tuning, with 95% bands.

    One series holds, for a mode, the points of the network as trained; another those of networks fine-tuned
    at the k they are evaluated at; further ones follow a network fine-tuned at one k along the others. The
    dashed line is the exact-ReLU accuracy; a star on each series marks its knee
    (:func:`~circa_train.plots.series.knee`).

    Raises:
        MixedExperiments: if the rows hold several models, data sets, splits, fraction bits, or networks
            before fine-tuning.
        ValueError: if no row is an evaluation with a single k.
    """
    rows = [row for row in rows if row.get("fault") == "truncated_sign" and row.get("k") is not None]
    if not rows:
        raise ValueError("no evaluation with a truncated sign and one k for all sites")
    shared = require_one(rows, ("model", "data", "split", "frac_bits", "prime"), "accuracy against k")
    plain = [row for row in rows if not row.get("finetuned")]
    require_one(plain, ("checkpoint",), "accuracy against k (before fine-tuning)")
    baseline = (plain or rows)[0].get("baseline_accuracy")
    figure, axes = new_figure()
    series = sorted(group(rows, _series_of).items())
    for index, ((_, _, label), members) in enumerate(series):
        points = accuracy_points(members, "k")
        exact = baseline if plain else members[0].get("baseline_accuracy")
        at = (
            knee({int(p.x): p.y for p in points}, exact, tolerance)
            if exact is not None and len(points) > 1
            else None
        )
        _band(axes, points, index, label if at is None else f"{label}, knee at k = {at}")
        if at is not None:
            y = next(point.y for point in points if point.x == at)
            color, size = series_style(index).color, 19 - 4 * min(index, 3)  # stars at one place stay visible
            axes.plot(
                [at],
                [y],
                marker="*",
                markersize=size,
                color=color,
                markeredgecolor="white",
                linestyle="none",
                zorder=5,
            )
    _baseline(axes, baseline)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    dress(
        axes,
        title=_title(shared),
        xlabel=f"truncated bits k (of {shared['prime'].bit_length()}; {shared['frac_bits']} fraction bits)",
        ylabel=f"{shared['split']} accuracy",
    )
    axes.legend(fontsize=8, frameon=False, loc="lower left")
    return figure


def accuracy_vs_rate(rows: Sequence[Row]) -> Figure:
    """Accuracy against the rate of uniform sign flips on a logarithmic axis, one series per direction, with
    95% bands.

    Raises:
        MixedExperiments: as :func:`accuracy_vs_k`.
        ValueError: if no row is an evaluation with uniform faults at a positive rate.
    """
    rows = [row for row in rows if row.get("fault") == "uniform" and (row.get("rate") or 0) > 0]
    if not rows:
        raise ValueError("no evaluation with uniform faults at a positive rate")
    shared = require_one(rows, ("model", "data", "split", "checkpoint"), "accuracy against the fault rate")
    figure, axes = new_figure()
    names = {"both": "both directions", "zeroed": "positives zeroed only", "passed": "negatives passed only"}
    for index, (direction, members) in enumerate(sorted(group(rows, lambda row: row["direction"]).items())):
        _band(axes, accuracy_points(members, "rate"), index, names.get(direction, str(direction)))
    _baseline(axes, rows[0].get("baseline_accuracy"))
    axes.set_xscale("log")
    dress(
        axes,
        title=_title(shared),
        xlabel="probability of a sign fault per ReLU",
        ylabel=f"{shared['split']} accuracy",
    )
    axes.legend(fontsize=8, frameon=False, loc="lower left")
    return figure


def accuracy_vs_severity(rows: Sequence[Row], fault: str) -> Figure:
    """Accuracy against the severity of one fault model, whichever it is: a series per checkpoint's training.

    Raises:
        MixedExperiments: as :func:`accuracy_vs_k`.
        ValueError: if no row is an evaluation of that model at one level.
    """
    rows = [row for row in rows if row.get("fault") == fault and row.get("level") is not None]
    if not rows:
        raise ValueError(f"no evaluation with the fault model {fault} at one level for all sites")
    shared = require_one(
        rows, ("model", "data", "split", "frac_bits", "severity"), f"accuracy against {fault}"
    )
    figure, axes = new_figure()
    for index, (tuned, members) in enumerate(
        sorted(group(rows, lambda row: bool(row.get("finetuned"))).items())
    ):
        require_one(members, ("checkpoint",), f"accuracy against {fault}")
        _band(axes, accuracy_points(members, "level"), index, f"{fault}, fine-tuned" if tuned else fault)
    _baseline(axes, rows[0].get("baseline_accuracy"))
    dress(
        axes,
        title=_title(shared),
        xlabel=f"{shared['severity']} ({shared['frac_bits']} fraction bits)",
        ylabel=f"{shared['split']} accuracy",
    )
    axes.legend(fontsize=8, frameon=False, loc="lower left")
    return figure


def _series_of(row: Row) -> tuple[bool, int, str]:
    """(fine-tuned, rank of the mode, label): as trained first, PosZero before NegPass."""
    mode, tuned = mode_name(row.get("mode")), bool(row.get("finetuned"))
    if not tuned:
        return tuned, mode_rank(row.get("mode")), mode
    trained = row.get("trained_k")
    where = "each k" if trained == row["k"] else f"k = {trained}"
    return tuned, mode_rank(row.get("mode")), f"{mode}, fine-tuned at {where}"


def _band(axes: Axes, points: Sequence[Point], index: int, label: str) -> None:
    style = series_style(index)
    x = [point.x for point in points]
    axes.plot(
        x,
        [point.y for point in points],
        label=label,
        color=style.color,
        marker=style.marker,
        linestyle=style.linestyle,
        markersize=5,
        linewidth=1.6,
    )
    axes.fill_between(
        x,
        [point.low for point in points],
        [point.high for point in points],
        color=style.color,
        alpha=0.18,
        linewidth=0,
    )
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def _baseline(axes: Axes, accuracy: float | None) -> None:
    if accuracy is not None:
        axes.axhline(
            accuracy,
            color=GREY,
            linestyle=(0, (6, 2)),
            linewidth=1,
            label=f"exact ReLU, {accuracy:.1%}",
            zorder=1,
        )


def _title(shared: dict[str, Any]) -> str:
    return f"{shared['model']} on {shared['data']}"
