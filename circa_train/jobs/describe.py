"""What records say of the things that several kinds of jobs deal with: accuracies, networks, costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from circa_train.cost import network_cost, why_no_circuit
from circa_train.evaluation import Evaluation
from circa_train.jobs.faults import FaultPlan
from circa_train.nn import specs_by_site


def describe_evaluation(measured: Evaluation) -> dict[str, Any]:
    low, high = measured.interval
    return {
        "mean": measured.mean,
        "std": measured.std,
        "low": low,
        "high": high,
        "draws": list(measured.accuracies),
        "images": measured.images,
    }


def describe_model(arguments: Mapping[str, Any]) -> str:
    """A model's name with what makes it another network: ``resnet18 width=0.5 reduced``."""
    options = [f"{key}={arguments[key]}" for key in ("shortcut", "width") if arguments.get(key) is not None]
    return " ".join([str(arguments["name"]), *options, *(["reduced"] if arguments.get("reduction") else [])])


def describe_cost(relus: Mapping[str, int], plan: FaultPlan) -> dict[str, int | None]:
    """ReLUs per image, and the AND gates and bytes of garbled tables of their sign tests, as
    :mod:`circa_train.cost` counts them; None where a site's fault model has no circuit.
    """
    specs = specs_by_site(plan.faults, relus)
    cost: dict[str, int | None] = {"relus": sum(relus.values()), "and_gates": None, "table_bytes": None}
    if all(spec.is_exact or why_no_circuit(spec) is None for spec in specs.values()):
        network = network_cost(list(relus.items()), specs, accounting="tables")
        cost |= {"and_gates": network.and_gates, "table_bytes": network.bytes}
    return cost
