"""What records say of the things that several kinds of jobs deal with: accuracies, networks, costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from circa_train.evaluation import Evaluation
from circa_train.fault import SignTest, TruncatedSign
from circa_train.field import bit_length
from circa_train.jobs.faults import FaultPlan
from circa_train.nn.control import specs_by_site

#: One AND gate of a comparison, garbled with half gates (Zahur, Rosulek, Evans 2015).
_BYTES_PER_AND = 32


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


def comparison_cost(relus: Mapping[str, int], plan: FaultPlan) -> dict[str, int | None]:
    """ReLUs per image and what their sign tests cost: bits - k AND gates each, 32 bytes of garbled tables per
    gate.

    Only truncated signs (and exact ReLUs among them, which are not counted as comparisons) have such a
    circuit; for other fault models the costs are None.
    """
    cost: dict[str, int | None] = {"relus": sum(relus.values()), "and_gates": None, "table_bytes": None}
    specs = specs_by_site(plan.faults, relus)
    if all(isinstance(spec, TruncatedSign) for spec in specs.values()):
        gates = sum(_and_gates(relus[name], spec) for name, spec in specs.items())
        cost |= {"and_gates": gates, "table_bytes": gates * _BYTES_PER_AND}
    return cost


def _and_gates(relus: int, spec: SignTest) -> int:
    assert isinstance(spec, TruncatedSign)
    ks = spec.k if isinstance(spec.k, tuple) else (spec.k,)
    return sum(relus // len(ks) * (bit_length(spec.prime) - k) for k in ks)
