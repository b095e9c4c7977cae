"""How lines of accuracy come onto axes: bands, exact ReLUs, notes, and the stretch near the top."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from circa_train.plots.lines import Line, Panel
from circa_train.plots.series import Point
from circa_train.plots.style import GREY, Note, NotedFigure, dress, plain, series_style
from circa_train.runs import Row

#: How far below the best a panel near the top reaches; where accuracy falls no further than twice this, one
#: panel shows it all.
NEAR_THE_TOP = 0.06


#: Of a legend's small text.
_CHARACTERS_PER_INCH = 14
_LINE_INCHES = 0.17


@dataclass(frozen=True)
class Limits:
    """Of a panel near the top: up to which x, and from where to where."""

    x: float
    bottom: float
    top: float


def knee_limits(lines: Sequence[Sequence[Point]]) -> Limits | None:
    """Where the panel near the top lies; None where it would show what the whole shows."""
    points = [point for line in lines for point in line]
    best = max(point.y for point in points)
    if best - min(point.y for point in points) < 2 * NEAR_THE_TOP:
        return None
    bottom = best - NEAR_THE_TOP
    inside = [point for point in points if point.y >= bottom]
    if len(inside) < 2:
        return None
    return Limits(max(point.x for point in inside), bottom, best + NEAR_THE_TOP / 6)


def grid(entries: Sequence[Sequence[str]], columns: int) -> tuple[NotedFigure, list[list[Axes]]]:
    """A figure with a row of ``columns`` panels for each list of legend entries; its axes by row.

    Each row has a legend of its own below it, and is as much taller as that has lines.
    """
    width = 6.4 if columns == 1 else 8.6
    heights = [3.9 + _LINE_INCHES * -(-len(texts) // _columns(texts, width)) for texts in entries]
    figure = NotedFigure(figsize=(width, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(heights), 1, squeeze=False, hspace=0.04, height_ratios=heights)
    return figure, [list(part.subplots(1, columns, squeeze=False)[0]) for (part,) in parts]


def tiles(entries: Sequence[Sequence[str]], columns: int) -> tuple[NotedFigure, list[Axes]]:
    """A figure of a panel for each list of legend entries, so many beside each other; every panel has a
    legend of its own below it.
    """
    rows = [entries[i : i + columns] for i in range(0, len(entries), columns)]
    heights = [3.1 + _LINE_INCHES * max(map(len, row)) for row in rows]
    width = 6.4 if columns == 1 else 5.4 * columns
    figure = NotedFigure(figsize=(width, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(rows), columns, squeeze=False, hspace=0.04, height_ratios=heights)
    return figure, [part.subplots() for part in parts.flat[: len(entries)]]


def draw_panels(found: Sequence[Panel], what: str, *, xlabel: str) -> NotedFigure:
    """A panel below the other, each with its lines."""
    figure, axes = grid([[line.label for line in panel.lines] + ["exact ReLU"] for panel in found], 1)
    for panel, (place,) in zip(found, axes, strict=True):
        for index, line in enumerate(panel.lines):
            draw_line(figure, place, line, index, label=line.label, what=what)
        exact_lines(place, panel)
        dress(place, title=panel.title, xlabel=xlabel, ylabel=f"{panel.split} accuracy")
        legend(place)
    return figure


def draw_line(
    figure: NotedFigure, axes: Axes, line: Line, index: int, *, label: str, what: str, notes: bool = True
) -> None:
    """A line with its band, and a note at each of its points that says ``what`` it is at."""
    style = series_style(index)
    x = [point.x for point in line.points]
    axes.plot(
        x, [point.y for point in line.points], label=plain(label), color=style.color, marker=style.marker,
        linestyle=style.linestyle, markersize=5, linewidth=1.6,
    )  # fmt: skip
    low, high = [point.low for point in line.points], [point.high for point in line.points]
    axes.fill_between(x, low, high, color=style.color, alpha=0.18, linewidth=0)
    if len(x) == 1:  # a band of no width is not seen
        axes.vlines(x, low, high, color=style.color, linewidth=1.2)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    if notes:
        for point in line.points:
            head = f"{line.label}, {what} = {point.x:g}"
            figure.notes.append(Note(axes, point.x, point.y, f"{head}\n{describe(point)}"))


def describe(point: Point) -> str:
    """A point in words: its value, what the interval is of, from how much, and by which command."""
    value = f"{point.y:.2%} [{100 * point.low:.2f}, {100 * point.high:.2f}]"
    draws = sum(int(row.get("draws") or 1) for row in point.rows)
    images = {row.get("images") for row in point.rows}
    of = f" of {images.pop():,} images" if len(images) == 1 and None not in images else ""
    spread = "95% interval over the draws" if point.networks == 1 else f"range of {point.networks} networks"
    return "\n".join([value, f"{spread}; {draws} draws{of}", *commands(point.rows)])


def commands(rows: Sequence[Row], most: int = 3) -> list[str]:
    """The commands that rows come from, or the runs of those that nobody called."""
    found = [
        f"scripts/{row['kind']}.py {row['overrides']}" if row.get("overrides") else str(row.get("run"))
        for row in rows
    ]
    rest = [f"and {len(found) - most} more"] if len(found) > most else []
    return [*found[:most], *rest]


def say_flat(axes: Axes, low: float, lines: Sequence[Line]) -> None:
    """At the left edge: what was measured further left, where nothing moves."""
    first = min(point.x for line in lines for point in line.points)
    if low > first:
        y = min(point.y for line in lines for point in line.points if point.x <= low)
        axes.annotate(
            f"flat from {first:g} on", (axes.get_xlim()[0], y), textcoords="offset points", xytext=(4, -14),
            fontsize=7, color=GREY,
        )  # fmt: skip


def exact_lines(axes: Axes, panel: Panel, budget: float | None = None) -> None:
    """The accuracy with exact ReLUs of every network that was not fine-tuned (of all, if all were), and the
    ``budget`` below it.
    """
    plain = [line for line in panel.lines if not line.tuned] or list(panel.lines)
    shown: dict[float, int] = {}
    for index, line in enumerate(panel.lines):
        if line in plain and line.baseline is not None:
            shown.setdefault(line.baseline, index)
    for accuracy, index in shown.items():
        color = GREY if len(shown) == 1 else series_style(index).color
        axes.axhline(
            accuracy, color=color, linestyle=(0, (6, 2)), linewidth=1, label=f"exact ReLU, {accuracy:.1%}",
            zorder=1,
        )  # fmt: skip
        if budget is not None:
            axes.axhline(
                accuracy - budget, color=color, linestyle=":", linewidth=1, zorder=1,
                label=f"{100 * budget:g} points below",
            )  # fmt: skip


def legend(axes: Axes, columns: int | None = None) -> None:
    """Below the panels of its row, where it covers no point, in as many columns as there is room for."""
    handles, texts = axes.get_legend_handles_labels()
    part = axes.get_figure(root=False)
    assert part is not None
    columns = columns or _columns(texts, part.get_figure(root=True).get_figwidth())
    part.legend(handles, texts, fontsize=8, frameon=False, loc="outside lower center", ncols=columns)


def _columns(texts: Sequence[str], inches: float) -> int:
    """Columns of a legend for which there is room."""
    return next((n for n in (3, 2) if _width(texts, n) <= inches * _CHARACTERS_PER_INCH), 1)


def _width(texts: Sequence[str], columns: int) -> int:
    """Characters that a legend takes in so many columns, which are filled one after the other."""
    each = -(-len(texts) // columns)
    return sum(max(map(len, texts[i : i + each])) + 8 for i in range(0, len(texts), each))
