"""The question of the paper over all networks at once: what is lost at how many compared bits, and where is
the knee?

A sign test that drops k of an n-bit prime's bits compares n - k, at one AND gate each. Where k differs by
site they are the AND gates per sign test, on average. HummingBird's window compares what it keeps. So
networks, data sets, modes, methods and fault models stand on one axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import FormatStrFormatter

from circa_train.plots.drawing import describe, legend, tiles
from circa_train.plots.lines import Line, Panel, fault_name, held_against, method_text, panels
from circa_train.plots.pareto import answer_row
from circa_train.plots.series import Point, group, knee, where_it_moves
from circa_train.plots.style import GREY, Note, NotedFigure, dress, plain, series_style, whole_numbers
from circa_train.plots.words import data_title, model_title
from circa_train.runs import Row

#: Points (percent) that the figure shows below and above the exact ReLUs. What falls further is lost anyway.
_SHOWN = (-10.0, 1.5)
#: More lines than this cannot be told apart in one panel.
_IN_ONE_PANEL = 10


@dataclass(frozen=True)
class Curve:
    """One line of the figure, held against exact ReLUs.

    Attributes:
        about: network and data.
        how: sign test, method, scale.
        line: its points, x in compared bits.
        panel: the lines of the same data and split.
    """

    about: str
    how: str
    line: Line
    panel: Panel

    @property
    def label(self) -> str:
        return f"{self.about}, {self.how}"

    def exact(self, point: Point | None = None) -> float:
        """Accuracy with exact ReLUs, of a fine-tuned network that of the network as it was."""
        found = held_against(self.line, self.panel, point)
        assert found is not None, "lines without it are left out"
        return found

    def lost(self, point: Point) -> float:
        """Points (percent) below the exact ReLUs."""
        return 100 * (self.exact(point) - point.y)


def compared_bits(row: Row) -> float | None:
    """Bits that the sign tests of an evaluation compare, the mean over them; None for exact ReLUs, and where
    nothing is compared or nobody knows.
    """
    if row.get("fault") == "none":
        return None
    if row.get("fault") == "bit_window":
        low, high = row.get("low"), row.get("high")
        return None if low is None or high is None else float(high - low)
    if row.get("and_gates") is None or not row.get("relus"):
        return None
    return float(row["and_gates"]) / float(row["relus"])


def curves(rows: Sequence[Row], searches: Sequence[Row] = ()) -> list[Curve]:
    """Evaluations and the answers of searches as lines against compared bits, whatever their data. Those are
    left out whose accuracy with exact ReLUs is not known.

    Raises:
        ValueError: if there is none.
    """
    known = [
        {**row, "bits": round(bits, 3)}
        for row in [*rows, *map(answer_row, searches)]
        if (bits := compared_bits(row)) is not None and row.get("accuracy") is not None
    ]
    found = panels(known, "bits")
    several = len({panel.split for panel in found}) > 1
    drawn = [
        Curve(_about(line, panel, several), _how(line), line, panel)
        for panel in found
        for line in panel.lines
        if held_against(line, panel) is not None
    ]
    if not drawn:
        raise ValueError("no evaluation with compared bits and exact ReLUs beside it")
    return drawn


def loss_vs_compared_bits(
    rows: Sequence[Row], searches: Sequence[Row] = (), *, tolerance: float = 0.01
) -> NotedFigure:
    """Points of accuracy lost against compared bits: one line for each network, data set, sign test and
    method, with a star at its knee (:func:`knees`). Up to ten lines are in one panel; more have a panel for
    each network and data set, all with the same axes.

    Raises:
        ValueError: if no evaluation has compared bits.
    """
    drawn = curves(rows, searches)
    together = len(drawn) <= _IN_ONE_PANEL
    parts = [drawn] if together else list(group(drawn, lambda curve: curve.about).values())
    titles = [part[0].about if len({curve.about for curve in part}) == 1 else "" for part in parts]
    names = [
        [curve.how if title else curve.label for curve in part]
        for part, title in zip(parts, titles, strict=True)
    ]
    figure, places = tiles(names, 1 if together else 2)
    inside = [p.x for curve in drawn for p in curve.line.points if -curve.lost(p) >= _SHOWN[0]]
    right = where_it_moves([curve.line.points for curve in drawn])[1]  # further right every line is flat
    for axes, part, title, labels in zip(places, parts, titles, names, strict=True):
        for index, (curve, label) in enumerate(zip(part, labels, strict=True)):
            _draw(figure, axes, curve, index, label, tolerance)
        axes.axhline(0, color=GREY, linestyle=(0, (6, 2)), linewidth=1, zorder=1)
        axes.axhline(-100 * tolerance, color=GREY, linestyle=":", linewidth=1, zorder=1)
        axes.set_ylim(*_SHOWN)
        if inside:
            axes.set_xlim(min(inside) - 0.5, max(right, min(inside)) + 0.5)
        whole_numbers(axes.xaxis)
        axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        dress(
            axes,
            title=plain(title or "Fewer compared bits"),
            xlabel="compared bits per sign test (AND gates)",
            ylabel="points above exact ReLUs",
        )
        legend(axes, 1)
    return figure


def _draw(
    figure: NotedFigure, axes: Axes, curve: Curve, index: int, label: str, tolerance: float
) -> None:
    style, points = series_style(index), curve.line.points
    at = _knee(curve, tolerance)
    axes.plot(
        [point.x for point in points], [-curve.lost(point) for point in points],
        label=plain(label if at is None else f"{label}, knee at {at.x:g}"),
        color=style.color, marker=style.marker, linestyle=style.linestyle, markersize=4, linewidth=1.3,
    )  # fmt: skip
    if at is not None:
        axes.plot(
            [at.x], [-curve.lost(at)], marker="*", markersize=12, color=style.color,
            markeredgecolor="white", linestyle="none", zorder=5,
        )  # fmt: skip
    figure.notes += [
        Note(
            axes, p.x, -curve.lost(p),
            f"{curve.label}, {p.x:g} bits, {curve.lost(p):.2f} points lost\n{describe(p)}",
        )
        for p in points
        if -curve.lost(p) >= _SHOWN[0]
    ]  # fmt: skip


def knees(
    rows: Sequence[Row], searches: Sequence[Row] = (), *, tolerance: float = 0.01
) -> list[dict[str, object]]:
    """The knee of every line that has two points or more, in compared bits: the fewest at which, as at every
    larger number that was measured, no more than ``tolerance`` is lost; and the next fewer that was measured.

    A line that loses more everywhere has no knee (None).
    """
    try:
        drawn = curves(rows, searches)
    except ValueError:
        return []
    table = []
    for curve in drawn:
        points = sorted(curve.line.points, key=lambda point: -point.x)
        if len(points) < 2:
            continue
        at, row = _knee(curve, tolerance), curve.line.rows[0]
        fewer = [point for point in points if at is None or point.x < at.x]
        beyond = fewer[0] if fewer else None
        table.append({
            "network": model_title(row.get("model")),
            "data": data_title(row.get("data")),
            "split": row.get("split"),
            "sign_test": fault_name(row),
            "method": row.get("method"),
            "frac_bits": row.get("frac_bits"),
            "networks": curve.line.networks,
            "exact_accuracy": curve.exact(at),
            "tolerance_points": 100 * tolerance,
            "knee_bits": None if at is None else at.x,
            "lost_at_knee": None if at is None else curve.lost(at),
            "next_bits": None if beyond is None else beyond.x,
            "lost_at_next": None if beyond is None else curve.lost(beyond),
        })  # fmt: skip
    return table


def _knee(curve: Curve, tolerance: float) -> Point | None:
    points = {-point.x: point for point in curve.line.points}
    at = knee({bits: -curve.lost(point) for bits, point in points.items()}, 0.0, 100 * tolerance + 1e-9)
    return None if at is None or len(points) < 2 else points[at]


def _about(line: Line, panel: Panel, several: bool) -> str:
    row = line.rows[0]
    about = f"{model_title(row.get('model'))} on {data_title(row.get('data'))}"
    return f"{about}, {panel.split}" if several else about


def _how(line: Line) -> str:
    row = line.rows[0]
    fraction = row.get("frac_bits")
    scales = {None: "", "per-channel": "a scale per channel"}.get(fraction, f"{fraction} fraction bits")
    seeds = f"{line.networks} networks" if line.networks > 1 else ""
    tuned = "fine-tuned" if line.tuned else ""
    return ", ".join(part for part in (fault_name(row), tuned, method_text(row), scales, seeds) if part)
