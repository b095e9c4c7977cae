"""Rows -> the lines of a figure: one for each network and sign test, with a label that says what differs.

Networks that differ in their training seed alone are one line, with their mean and their range. A network
that was fine-tuned at one k is a line of its own, over all k that it was evaluated at, and never part of the
line of another. Only where each of several fine-tuned networks was evaluated at its own k and nowhere else do
they share a line, which then says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from circa_train.plots.series import Point, accuracy_points, experiment_of, group, weights_of
from circa_train.plots.words import DIRECTION_NAMES, data_title, mode_name, mode_rank, model_title
from circa_train.runs import Row

#: What a label says, in this order, and what of it only where the lines of a panel differ in it.
FACETS = ("model", "fault", "trained", "method", "frac_bits", "prime", "rescale_bits")
WHERE_THEY_DIFFER = ("model", "frac_bits", "prime")


@dataclass(frozen=True)
class Line:
    """One line of a figure.

    Attributes:
        label: what tells it from the others of its panel.
        rows: of all of its points.
        points: by rising x.
        tuned: were its networks trained with faults in the loop?
        baseline: accuracy of its networks with exact ReLUs, their mean; None where it is not known.
    """

    label: str
    rows: tuple[Row, ...]
    points: tuple[Point, ...]
    tuned: bool
    baseline: float | None

    @property
    def networks(self) -> int:
        return max(point.networks for point in self.points)


@dataclass(frozen=True)
class Panel:
    """Lines that may be compared: of one data set and split.

    Attributes:
        title: the data in words, with the network where there is only one.
        split: which images.
        lines: in the order of drawing.
    """

    title: str
    split: str
    lines: tuple[Line, ...]


def held_against(line: Line, panel: Panel, point: Point | None = None) -> float | None:
    """What a line is held against: its accuracy with exact ReLUs; of a fine-tuned network that of the network
    as it was, where the panel has one of the same model. With a ``point``: on that point's own images where
    that is known, as one line may hold measurements on all images and on some.
    """
    model = line.rows[0].get("model")
    plain = [each for each in panel.lines if not each.tuned and each.rows[0].get("model") == model]
    known = plain[0] if line.tuned and plain else line
    if point is None:
        return known.baseline
    rows = [row for row in point.rows if row.get("baseline_accuracy") is not None]
    if line.tuned:
        images = {row.get("images") for row in point.rows}
        candidates = (row for each in plain for row in each.rows if {row.get("images")} == images)
        rows = [row for row in candidates if row.get("baseline_accuracy") is not None][:1]
    exact = [
        fmean(row["baseline_accuracy"] for row in members) for members in group(rows, weights_of).values()
    ]
    return fmean(exact) if exact else known.baseline


def panels(rows: Sequence[Row], column: str) -> list[Panel]:
    """The rows by data set and split, and within as lines of accuracy against ``column``."""
    by_data = group(rows, lambda row: (str(row.get("data")), str(row.get("split"))))
    return [
        Panel(panel_title(members), split, tuple(_lines(members, column)))
        for (_, split), members in sorted(by_data.items())
    ]


def panel_title(rows: Sequence[Row]) -> str:
    """``resnet32 on CIFAR-10``, or the data alone where there are several networks."""
    models = {model_title(row.get("model")) for row in rows}
    data = data_title(rows[0].get("data"))
    return f"{models.pop()} on {data}" if len(models) == 1 else data


def labels(described: Sequence[Mapping[str, str]], names: Sequence[str]) -> list[str]:
    """A label for each line, of its facets; a line that would still look like another gets its name.

    >>> labels([{"model": "a", "fault": "PosZero"}, {"model": "b", "fault": "PosZero"}], ["1", "2"])
    ['a, PosZero', 'b, PosZero']
    """
    told = [
        facet
        for facet in FACETS
        if facet not in WHERE_THEY_DIFFER or len({each.get(facet) for each in described} - {None, ""}) > 1
    ]
    found = [", ".join(each[facet] for facet in told if each.get(facet)) for each in described]
    return [
        f"{label} ({name})" if found.count(label) > 1 else label
        for label, name in zip(found, names, strict=True)
    ]


def fault_name(row: Row) -> str:
    """The sign test of a row in words, without its severity."""
    if row.get("fault") == "uniform":
        return DIRECTION_NAMES.get(str(row.get("direction")), str(row.get("direction")))
    if row.get("fault") == "none":
        return "exact"
    if row.get("fault") == "per site":
        return "one k per site"
    mode = mode_name(row["mode"]) if row.get("mode") else ""
    if row.get("fault") == "truncated_sign" and mode:
        return mode
    return f"{row.get('fault')}, {mode}" if mode else str(row.get("fault"))


def method_text(row: Row) -> str:
    """What was done to the network, without what the model's name or the label says already."""
    said = {"as it is", "reduced", "fine-tuned", "searched"}
    return ", ".join(part for part in str(row.get("method") or "").split(", ") if part and part not in said)


def _lines(rows: Sequence[Row], column: str) -> list[Line]:
    groups = group(rows, lambda row: (experiment_of(row), *_settings(row)))
    own: dict[Any, list[Row]] = {}  # fine-tuned networks that were evaluated at their own k alone
    alone: list[list[Row]] = []
    for key, members in groups.items():
        if all(row.get("finetuned") and row.get("k") in _trained_ks(row) for row in members):
            own.setdefault(key[1:], []).extend(members)
        else:
            alone.append(members)
    for members in own.values():
        alone.extend(_at_their_own_k(members))
    together = alone
    together.sort(key=_order)
    described = [_facets(members) for members in together]
    names = [_name(members) for members in together]
    return [
        _line(label, members, column)
        for label, members in zip(labels(described, names), together, strict=True)
    ]


def _trained_ks(row: Row) -> tuple[Any, ...]:
    return () if row.get("trained_k") is None else (row["trained_k"],)


def _at_their_own_k(rows: list[Row]) -> list[list[Row]]:
    """Fine-tuned networks as one line over their k; each on its own if at one k several recipes are known:
    those are no repetitions, and nothing says which of them belongs to which at the next k.
    """
    for members in group(rows, lambda row: row["k"]).values():
        if len({row["recipe"] for row in members if row.get("recipe") is not None}) > 1:
            return list(group(rows, experiment_of).values())
    return [rows]


def _line(label: str, rows: Sequence[Row], column: str) -> Line:
    points = tuple(accuracy_points(rows, column))
    each = group([row for row in rows if row.get("baseline_accuracy") is not None], weights_of)
    exact = [members[0]["baseline_accuracy"] for members in each.values()]
    seeds = sorted({point.networks for point in points})
    many = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else str(seeds[0])
    return Line(
        f"{label}, {many} networks" if seeds[-1] > 1 else label,
        tuple(rows),
        points,
        bool(rows[0].get("finetuned")),
        sum(exact) / len(exact) if exact else None,
    )


def _settings(row: Row) -> tuple[Any, ...]:
    """What else makes two lines of one network."""
    return (
        str(row.get("model")),
        str(row.get("method")),
        bool(row.get("finetuned")),
        row.get("fault"),
        row.get("mode"),
        row.get("direction"),
        row.get("frac_bits"),
        row.get("prime"),
        str(row.get("config.fault.rescale_bits") or 0),
    )


def _facets(rows: Sequence[Row]) -> dict[str, str]:
    row = rows[0]
    trained = sorted({str(row["trained_k"]) for row in rows if row.get("trained_k") is not None})
    tuned = ""
    if row.get("finetuned"):
        tuned = "fine-tuned" if not trained else f"fine-tuned at k = {trained[0]}"
        tuned = "fine-tuned at each k" if len(trained) > 1 else tuned
    rescaled = str(row.get("config.fault.rescale_bits") or 0)
    return {
        "model": model_title(row.get("model")),
        "fault": fault_name(row),
        "trained": tuned,
        "method": method_text(row),
        "frac_bits": "" if row.get("frac_bits") is None else f"{row['frac_bits']} fraction bits",
        "prime": "" if row.get("prime") is None else f"p = {row['prime']}",
        "rescale_bits": "" if rescaled == "0" else f"{rescaled} bits rescaled",
    }


def _name(rows: Sequence[Row]) -> str:
    return str(rows[0].get("network") or rows[0].get("checkpoint"))


def _order(rows: Sequence[Row]) -> tuple[Any, ...]:
    row = rows[0]
    return (
        bool(row.get("finetuned")),
        str(row.get("model")),
        mode_rank(row.get("mode")),
        -1 if row.get("trained_k") is None else row["trained_k"],
        _name(rows),
    )
