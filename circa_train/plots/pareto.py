"""What accuracy costs: accuracy against bytes of garbled tables per inference, and against the seconds that
private inferences took.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter, ScalarFormatter

from circa_train.cost import paper_circuits, relu_bytes
from circa_train.fault import TruncatedSign
from circa_train.field import DEFAULT_PRIME
from circa_train.gc.circuits import SignCircuit
from circa_train.gc.protocol import AND_BYTES
from circa_train.plots.drawing import commands, describe, exact_lines, grid, knee_limits, legend
from circa_train.plots.lines import Line, Panel, panels
from circa_train.plots.series import Point, group, weights_of
from circa_train.plots.style import GREY, Note, NotedFigure, dress, plain, series_style
from circa_train.plots.words import model_title
from circa_train.runs import Row

_MEBI = 2**20

#: What the front is called.
FRONT = "Pareto front, with its k"

#: Circuits that a network would run without Circa, by letter of the paper's figure, with their names and
#: markers here: both are exact.
REFERENCES = {"a": ("full ReLU", "*"), "b": ("exact sign", "p")}


@dataclass(frozen=True)
class Price:
    """What a figure has on its x axis.

    Attributes:
        label: of the axis.
        unit: of a value.
        of_row: of an evaluation's sign tests; None where nobody knows.
        of_circuit: of a row's ReLUs, all in one circuit; None where nobody knows.
    """

    label: str
    unit: str
    of_row: Callable[[Row], float | None]
    of_circuit: Callable[[Row, SignCircuit], float] | None = None


@dataclass(frozen=True)
class Reference:
    """A network with exact ReLUs, in one of the circuits without truncation."""

    label: str
    marker: str
    point: Point


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


def accuracy_vs_bytes(rows: Sequence[Row], searches: Sequence[Row] = ()) -> NotedFigure:
    """Accuracy against garbled-table bytes per inference (32 B per AND gate of the sign tests), with the
    Pareto front over all networks and methods.

    A row of panels for each data set and split, on the right the same near the top. Each network and method
    is a series, each point of the front says its k. Beside them stands every network that was not fine-tuned
    with exact ReLUs, in the circuit of a full ReLU and in that of an exact sign.

    Args:
        rows: evaluations.
        searches: rows of the kind ``search``: their answers are points, too.

    Raises:
        ValueError: if no evaluation has a cost.
    """
    price = Price(
        "garbled tables per inference (MiB)",
        "MiB",
        lambda row: row["table_bytes"] / _MEBI if row.get("table_bytes") else None,
        lambda row, circuit: row["relus"] * relu_bytes(circuit, "tables") / _MEBI,
    )
    return _pareto([*rows, *map(answer_row, searches)], price, "no evaluation with a cost in bytes")


def accuracy_vs_seconds(
    rows: Sequence[Row], inferences: Sequence[Row], searches: Sequence[Row] = ()
) -> NotedFigure:
    """Accuracy against the median online seconds of a private inference, drawn as
    :func:`accuracy_vs_bytes` is.

    An evaluation and an inference belong together if they have as many sign tests, and these as many AND
    gates: the circuits are the same then. Only what was measured is drawn; the circuits of full ReLUs and
    exact signs are not run that way.

    Args:
        rows: evaluations.
        inferences: rows of the kind ``infer``, of one machine and link.
        searches: rows of the kind ``search``: their answers are points, too.

    Raises:
        ValueError: if no inference belongs to an evaluation.
    """
    seconds: Mapping[tuple[int, int], float] = {
        (row["relus"], row["and_gates"]): row["online_seconds.median"]
        for row in inferences
        if row.get("online_seconds.median") and row.get("and_gates") is not None
    }
    price = Price(
        "online seconds per inference",
        "s",
        lambda row: seconds.get((row.get("relus", 0), row.get("and_gates", 0))),
    )
    return _pareto(
        [*rows, *map(answer_row, searches)],
        price,
        "no private inference has the sign tests and AND gates of an evaluation",
    )


def _pareto(rows: Sequence[Row], price: Price, nothing: str) -> NotedFigure:
    """The figure of one price; ValueError(``nothing``) if no row has one."""
    priced = [{**row, "price": cost} for row in rows if (cost := price.of_row(row))]
    if not priced:
        raise ValueError(nothing)
    found = panels(priced, "price")
    near = [knee_limits([line.points for line in panel.lines]) for panel in found]
    beside = [references([row for line in panel.lines for row in line.rows], price) for panel in found]
    entries = [
        [FRONT, *(line.label for line in panel.lines), *{each.label for each in exact}]
        for panel, exact in zip(found, beside, strict=True)
    ]
    figure, axes = grid(entries, 2 if any(near) else 1)
    for panel, (whole, *zoomed), limits, exact in zip(found, axes, near, beside, strict=True):
        _draw(figure, whole, panel, price, exact)
        legend(whole)
        for closer in zoomed:
            if limits is None:
                closer.set_axis_off()
                continue
            _draw(figure, closer, panel, price, exact, notes=False)
            inside = [p.x for line in panel.lines for p in line.points if p.y >= limits.bottom]
            closer.set_xlim(min(inside) / 1.1, max(inside) * 1.1)
            closer.set_ylim(limits.bottom, limits.top)
            exact_lines(closer, panel)
            closer.set_title("the same, near the top", fontsize=9)
    return figure


def answer_row(search: Row) -> Row:
    """The answer of a search as if it had been evaluated: on the test images that confirmed it or did not."""
    gates, found = search.get("chosen.and_gates"), "chosen.test.accuracy"
    by_site = bool(search.get("beats_uniform") or search.get("gates"))
    return {
        **{key: search.get(key) for key in ("run", "overrides", "model", "data", "checkpoint", "network")},
        "kind": "search",
        "split": "test",
        "method": "searched" if by_site else "as it is",
        "fault": "per site" if by_site else "truncated_sign",
        "mode": None if by_site else search.get("mode"),
        "k": None if by_site else search.get("k"),
        "prime": None if by_site else search.get("prime"),
        # a joint search gives every channel a scale; what the record has is the network's as it was
        "frac_bits": "per-channel" if by_site and search.get("joint") else search.get("frac_bits"),
        "weights": search.get("weights"),
        "finetuned": False,
        "accuracy": search.get(f"{found}.mean"),
        "accuracy_low": search.get(f"{found}.low"),
        "accuracy_high": search.get(f"{found}.high"),
        "images": search.get(f"{found}.images"),
        "baseline_accuracy": search.get("chosen.test.baseline_accuracy"),
        "relus": search.get("relus"),
        "and_gates": gates,
        "table_bytes": None if gates is None else AND_BYTES * gates,
    }


def references(rows: Sequence[Row], price: Price) -> list[Reference]:
    """Every network of the rows with exact ReLUs, in the circuits without truncation; of fine-tuned ones
    only where there is no other.
    """
    if price.of_circuit is None:
        return []
    known = [row for row in rows if row.get("relus") and row.get("baseline_accuracy") is not None]
    plain = [row for row in known if not row.get("finetuned")] or known
    models = {model_title(row.get("model")) for row in plain}
    found: list[Reference] = []
    for members in group(plain, lambda row: (str(row.get("model")), weights_of(row))).values():
        row = members[0]
        circuits = paper_circuits(TruncatedSign(k=0, prime=int(row.get("prime") or DEFAULT_PRIME)))
        for letter, (name, marker) in REFERENCES.items():
            cost, accuracy = price.of_circuit(row, circuits[letter][0]), row["baseline_accuracy"]
            label = f"{model_title(row.get('model'))}, {name}" if len(models) > 1 else name
            found.append(Reference(label, marker, Point(cost, accuracy, accuracy, accuracy, rows=(row,))))
    return found


def _draw(
    figure: NotedFigure,
    axes: Axes,
    panel: Panel,
    price: Price,
    exact: Sequence[Reference],
    *,
    notes: bool = True,
) -> None:
    points = [point for line in panel.lines for point in line.points]
    front = pareto_front([(point.x, point.y) for point in [*points, *(each.point for each in exact)]])
    axes.step(
        [x for x, _ in front], [y for _, y in front], where="post", color=GREY, linewidth=1,
        label=FRONT, zorder=1,
    )  # fmt: skip
    for index, line in enumerate(panel.lines):
        style = series_style(index)
        axes.plot(
            [point.x for point in line.points], [point.y for point in line.points], linestyle="none",
            marker=style.marker,
            markerfacecolor="none",  # points of two series at one place both show
            markeredgecolor=style.color, markeredgewidth=1.6, markersize=6, label=plain(line.label),
        )  # fmt: skip
        if notes:
            figure.notes += [Note(axes, p.x, p.y, _told(line, p, price.unit)) for p in line.points]
    for label, members in group(_by_label(exact), lambda item: item["label"]).items():
        places = [item["reference"].point for item in members]
        axes.plot(
            [place.x for place in places], [place.y for place in places], linestyle="none",
            marker=members[0]["reference"].marker, color=GREY, markersize=8, label=plain(label),
        )  # fmt: skip
        if notes:
            figure.notes += [
                Note(
                    axes, p.x, p.y, f"{label}\n{p.y:.2%}, {_number(p.x)} {price.unit}\n{commands(p.rows)[0]}"
                )
                for p in places
            ]
    if not notes or knee_limits([line.points for line in panel.lines]) is None:
        _name_the_front(axes, points, set(front))
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(LogLocator(base=2))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.08, y=0.1)  # room for the outermost numbers
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    dress(
        axes,
        title=panel.title,
        xlabel=price.label,
        ylabel=f"{panel.split} accuracy" if notes else "",
    )


def _by_label(exact: Sequence[Reference]) -> list[Row]:
    return [{"label": each.label, "reference": each} for each in exact]


def _name_the_front(axes: Axes, points: Sequence[Point], front: set[tuple[float, float]]) -> None:
    for point in points:
        k = point.rows[0].get("k")
        if (point.x, point.y) in front and k is not None:
            front.discard((point.x, point.y))
            axes.annotate(
                str(k), (point.x, point.y), fontsize=7, color=GREY, textcoords="offset points",
                xytext=(0, 6), ha="center", annotation_clip=True,
            )  # fmt: skip


def _told(line: Line, point: Point, unit: str) -> str:
    k = point.rows[0].get("k")
    at = "" if k is None else f", k = {k}"
    return f"{line.label}{at}, {_number(point.x)} {unit}\n{describe(point)}"


def _number(value: float) -> str:
    return f"{value:,.1f}" if value >= 10 else f"{value:.2f}"
