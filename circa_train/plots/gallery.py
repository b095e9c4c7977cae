"""Every figure for which there is data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from matplotlib.figure import Figure

from circa_train.plots.accuracy import accuracy_vs_k, accuracy_vs_rate, accuracy_vs_severity
from circa_train.plots.law import fault_probability_curves
from circa_train.plots.pareto import accuracy_vs_bytes
from circa_train.plots.series import MixedExperiments, group, knee
from circa_train.plots.sites import site_fault_rates, site_heat_map
from circa_train.runs import Row

_LAW_CURVES = 6


@dataclass
class Gallery:
    """Figures by file name, and why the others were not drawn."""

    figures: dict[str, Figure] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def gallery(rows: Sequence[Row], sites: Sequence[Row] = (), *, tolerance: float = 0.01) -> Gallery:
    """Draw what the rows of evaluations, and of sites, allow; what is mixed or absent is left out with its
    reason.
    """
    evaluations = [row for row in rows if row["kind"] == "evaluate"]
    found = Gallery()

    def draw(name: str, figure: Callable[[], Figure]) -> None:
        try:
            found.figures[name] = figure()
        except MixedExperiments as error:
            found.left_out[name] = str(error)
        except ValueError as error:
            found.left_out[name] = f"no data: {error}"

    draw("accuracy_vs_k", lambda: accuracy_vs_k(evaluations, tolerance=tolerance))
    draw("accuracy_vs_rate", lambda: accuracy_vs_rate(evaluations))
    others = {str(row["fault"]) for row in evaluations if row.get("level") is not None}
    for fault in sorted(others - {"truncated_sign", "uniform"}):  # these two have figures of their own
        draw(f"accuracy_vs_{fault}", partial(accuracy_vs_severity, evaluations, fault))
    draw("accuracy_vs_bytes", lambda: accuracy_vs_bytes(evaluations))
    draw("site_heat_map", lambda: site_heat_map([row for row in sites if not row.get("finetuned")]))
    draw("site_fault_rates", lambda: site_fault_rates(_telling_run(sites, tolerance)))
    for (mode, prime), members in group(evaluations, lambda row: (row.get("mode"), row.get("prime"))).items():
        ks = sorted({row["k"] for row in members if row.get("k") is not None})
        if mode and ks:
            some = ks[:: -(-len(ks) // _LAW_CURVES)]
            draw(f"fault_probability_{mode}", partial(fault_probability_curves, some, mode=mode, prime=prime))
    return found


def _telling_run(sites: Sequence[Row], tolerance: float) -> list[Row]:
    """Of the evaluations with figures per site, the one at the knee (else the smallest k): many faults,
    little harm.
    """
    runs = group(
        [row for row in sites if row.get("k") is not None and not row.get("finetuned")],
        lambda row: row["run"],
    )
    if not runs:
        return list(sites)
    accuracy = {members[0]["k"]: members[0]["accuracy"] for members in runs.values()}
    baseline = next(iter(runs.values()))[0].get("baseline_accuracy")
    k = knee(accuracy, baseline, tolerance) if baseline is not None else None
    chosen = min(accuracy) if k is None else k
    return next(members for members in runs.values() if members[0]["k"] == chosen)
