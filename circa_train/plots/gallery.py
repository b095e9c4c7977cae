"""Every figure for which there is data."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from circa_train.plots.accuracy import accuracy_vs_k, accuracy_vs_rate, accuracy_vs_severity
from circa_train.plots.answer import site_harm
from circa_train.plots.compared_bits import loss_vs_compared_bits
from circa_train.plots.histograms import site_histograms
from circa_train.plots.law import fault_probability_curves
from circa_train.plots.pareto import accuracy_vs_bytes, accuracy_vs_seconds
from circa_train.plots.series import MixedExperiments, group, knee, weights_of
from circa_train.plots.sites import site_fault_rates, site_heat_map
from circa_train.plots.style import NotedFigure
from circa_train.plots.training import training_curves
from circa_train.runs import Row

_LAW_CURVES = 6


@dataclass
class Gallery:
    """Figures by file name, and why the others were not drawn."""

    figures: dict[str, NotedFigure] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def gallery(
    rows: Sequence[Row],
    sites: Sequence[Row] = (),
    *,
    allocations: Sequence[Row] = (),
    histories: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    tolerance: float = 0.01,
) -> Gallery:
    """Draw what the rows of evaluations, of sites, of searches and of trainings allow; what is mixed or
    absent is left out with its reason.

    Figures of one network or one search carry its name where there are several.

    Args:
        rows: of the table, of all kinds.
        sites: of evaluations (:func:`circa_train.runs.site_rows`).
        allocations: of searches (:func:`circa_train.runs.sites.allocation_rows`).
        histories: metrics of trainings, by name.
        tolerance: what may be lost up to the knee.
    """
    evaluations = [row for row in rows if row["kind"] == "evaluate"]
    found = Gallery()

    def draw(name: str, figure: Callable[[], NotedFigure]) -> None:
        try:
            found.figures[name] = figure()
        except MixedExperiments as error:
            found.left_out[name] = str(error)
        except ValueError as error:
            found.left_out[name] = f"no data: {error}"

    def draw_each(name: str, parts: Mapping[str, Any], figure: Callable[[Any], NotedFigure]) -> None:
        if not parts:
            draw(name, partial(figure, []))
        for part, members in parts.items():
            draw(name if len(parts) == 1 else f"{name}_{_as_file(part)}", partial(figure, members))

    draw("accuracy_vs_k", lambda: accuracy_vs_k(evaluations, tolerance=tolerance))
    draw("accuracy_vs_rate", lambda: accuracy_vs_rate(evaluations))
    others = {str(row["fault"]) for row in evaluations if row.get("level") is not None}
    for fault in sorted(others - {"truncated_sign", "uniform"}):  # these two have figures of their own
        draw(f"accuracy_vs_{fault}", partial(accuracy_vs_severity, evaluations, fault))
    searches = [row for row in rows if row["kind"] == "search"]
    draw("loss_vs_compared_bits", lambda: loss_vs_compared_bits(evaluations, searches, tolerance=tolerance))
    draw("accuracy_vs_bytes", lambda: accuracy_vs_bytes(evaluations, searches))
    inferences = [row for row in rows if row["kind"] == "infer"]
    draw("accuracy_vs_seconds", lambda: accuracy_vs_seconds(evaluations, inferences, searches))
    plain = [row for row in sites if not row.get("finetuned")] or list(sites)
    networks = _named(group(plain, lambda row: (weights_of(row), str(row.get("data")), row.get("frac_bits"))))
    draw_each("site_heat_map", networks, site_heat_map)
    telling = {name: _telling_run(members, tolerance) for name, members in networks.items()}
    draw_each("site_fault_rates", telling, site_fault_rates)
    draw_each("site_histograms", telling, site_histograms)
    draw_each("site_harm", _named(group(allocations, lambda row: row["run"])), site_harm)
    draw("training_curves", lambda: training_curves(histories or {}))
    for (mode, prime), members in group(evaluations, lambda row: (row.get("mode"), row.get("prime"))).items():
        ks = sorted({row["k"] for row in members if row.get("k") is not None})
        if mode and ks:
            some = ks[:: -(-len(ks) // _LAW_CURVES)]
            draw(f"fault_probability_{mode}", partial(fault_probability_curves, some, mode=mode, prime=prime))
    return found


def _named(groups: Mapping[Any, list[Row]]) -> dict[str, list[Row]]:
    """Groups by a short name of each: its network's or its run folder's, told apart by a number."""
    named: dict[str, list[Row]] = {}
    for members in groups.values():
        short = str(members[0].get("network") or re.split(r"[/\\]", str(members[0].get("run")))[-1])
        name, number = short, 2
        while name in named:
            name, number = f"{short} {number}", number + 1
        named[name] = members
    return named


def _as_file(name: str) -> str:
    """A name as part of a file's: anything but letters, digits, dots and hyphens becomes an underscore."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", name).strip("._") or "unnamed"


def _telling_run(sites: Sequence[Row], tolerance: float) -> list[Row]:
    """Of the evaluations with figures per site, the one at the knee (else the smallest k): many faults,
    little harm.
    """
    runs = group([row for row in sites if row.get("k") is not None], lambda row: row["run"])
    if not runs:
        return list(sites)
    accuracy = {members[0]["k"]: members[0]["accuracy"] for members in runs.values()}
    baseline = next(iter(runs.values()))[0].get("baseline_accuracy")
    k = knee(accuracy, baseline, tolerance) if baseline is not None else None
    chosen = min(accuracy) if k is None else k
    return next(members for members in runs.values() if members[0]["k"] == chosen)
