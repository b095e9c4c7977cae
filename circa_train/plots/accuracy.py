"""Accuracy against the truncation k, against a uniform fault rate, and against any model's severity."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from circa_train.plots.drawing import draw_line, draw_panels, exact_lines, grid, knee_limits, legend, say_flat
from circa_train.plots.lines import Line, Panel, held_against, panels
from circa_train.plots.series import knee, require_one, where_it_moves
from circa_train.plots.style import NotedFigure, dress, series_style, whole_numbers
from circa_train.runs import Row


def accuracy_vs_k(rows: Sequence[Row], *, tolerance: float = 0.01) -> NotedFigure:
    """Accuracy against k: a line for each network and sign test, before and after fine-tuning, with 95%
    bands.

    Beside Circa's sign tests stand all fault models whose severity is their ``k``.

    One row of panels for each data set and split: on the left the whole fall, over those k where accuracy
    moves, on the right the same near the top, where a budget is decided. Networks that differ in their
    training seed alone are one line, and its band their range. Dashed is the accuracy with exact ReLUs,
    dotted (on the right) ``tolerance`` below it; a star marks the knee of each line
    (:func:`~circa_train.plots.series.knee`).

    Raises:
        ValueError: if no row is an evaluation with a single k.
    """
    rows = [
        row
        for row in rows
        if row.get("k") is not None and (row.get("fault") == "truncated_sign" or row.get("severity") == "k")
    ]
    if not rows:
        raise ValueError("no evaluation with a truncated sign and one k for all sites")
    found = panels(rows, "k")
    near = [knee_limits([line.points for line in panel.lines]) for panel in found]
    entries = [
        [f"{line.label}, knee at k = 20" for line in panel.lines] + ["exact ReLU, 88.0%"] for panel in found
    ]
    figure, axes = grid(entries, 2 if any(near) else 1)
    for panel, (whole, *zoomed), limits in zip(found, axes, near, strict=True):
        _draw_k(figure, whole, panel, tolerance)
        low, high = where_it_moves([line.points for line in panel.lines])
        if limits is not None:  # a line may end near the top, before the others move
            low = min(low, limits.x)
        stars = [_knee(line, panel, tolerance) for line in panel.lines]  # none may lie outside
        whole.set_xlim(low - 0.5, max([high, *(at for at in stars if at is not None)]) + 0.5)
        say_flat(whole, low, panel.lines)
        for closer in zoomed:
            if limits is None:
                closer.set_axis_off()
                continue
            _draw_k(figure, closer, panel, tolerance, notes=False)
            closer.set_xlim(low - 0.5, limits.x + 0.5)
            closer.set_ylim(limits.bottom, limits.top)
            closer.set_title("the same, near the top", fontsize=9)
        legend(whole)
    return figure


def _draw_k(
    figure: NotedFigure, axes: Axes, panel: Panel, tolerance: float, *, notes: bool = True
) -> None:
    for index, line in enumerate(panel.lines):
        at = _knee(line, panel, tolerance)
        label = line.label if at is None else f"{line.label}, knee at k = {at}"
        draw_line(figure, axes, line, index, label=label, what="k", notes=notes)
        if at is not None:
            y = next(point.y for point in line.points if point.x == at)
            size = 19 - 4 * min(index, 3)  # stars at one place stay visible
            axes.plot(
                [at], [y], marker="*", markersize=size, color=series_style(index).color,
                markeredgecolor="white", linestyle="none", zorder=5,
            )  # fmt: skip
    exact_lines(axes, panel, budget=None if notes else tolerance)
    whole_numbers(axes.xaxis)
    primes = {row["prime"].bit_length() for line in panel.lines for row in line.rows if row.get("prime")}
    bits = {row.get("frac_bits") for line in panel.lines for row in line.rows}
    known = [f"of {primes.pop()}"] if len(primes) == 1 else []
    known += [f"{bits.pop()} fraction bits"] if len(bits) == 1 else []
    more = f" ({'; '.join(known)})" if known else ""
    dress(
        axes,
        title=panel.title,
        xlabel=f"truncated bits k{more}",
        ylabel=f"{panel.split} accuracy" if notes else "",
    )


def _knee(line: Line, panel: Panel, tolerance: float) -> int | None:
    exact = held_against(line, panel)
    if exact is None or len(line.points) < 2:
        return None
    return knee({int(point.x): point.y for point in line.points}, exact, tolerance)


def accuracy_vs_rate(rows: Sequence[Row]) -> NotedFigure:
    """Accuracy against the rate of uniform sign flips on a logarithmic axis, a line for each network and
    direction, with 95% bands.

    Raises:
        ValueError: if no row is an evaluation with uniform faults at a positive rate.
    """
    rows = [row for row in rows if row.get("fault") == "uniform" and (row.get("rate") or 0) > 0]
    if not rows:
        raise ValueError("no evaluation with uniform faults at a positive rate")
    figure = draw_panels(panels(rows, "rate"), "rate", xlabel="probability of a sign fault per ReLU")
    for axes in figure.axes:
        axes.set_xscale("log")
    return figure


def accuracy_vs_severity(rows: Sequence[Row], fault: str) -> NotedFigure:
    """Accuracy against the severity of one fault model, whichever it is: a line for each network.

    Raises:
        MixedExperiments: if the rows measure severity by several fields of the model.
        ValueError: if no row is an evaluation of that model at one level.
    """
    rows = [row for row in rows if row.get("fault") == fault and row.get("level") is not None]
    if not rows:
        raise ValueError(f"no evaluation with the fault model {fault} at one level for all sites")
    shared = require_one(rows, ("severity",), f"accuracy against {fault}")
    bits = {row.get("frac_bits") for row in rows}
    fraction = f" ({bits.pop()} fraction bits)" if len(bits) == 1 else ""
    figure = draw_panels(
        panels(rows, "level"), str(shared["severity"]), xlabel=f"{shared['severity']}{fraction}"
    )
    if all(isinstance(row["level"], int) for row in rows):
        for axes in figure.axes:
            whole_numbers(axes.xaxis)
    return figure
