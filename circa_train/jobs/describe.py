"""What records say of the things that several kinds of jobs deal with: accuracies, networks, costs."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from circa_train import user_code
from circa_train.cost import network_cost, why_no_circuit
from circa_train.evaluation import Evaluation
from circa_train.jobs.faults import COMMON, FaultPlan
from circa_train.nn import specs_by_site


def next_command(script: str, checkpoint: str, section: Mapping[str, Any], *arguments: str) -> str:
    """A command that goes on with a checkpoint, for the user to copy. It names the code of the user's own
    that the job with the configuration ``section`` was told of, or trusted.
    """
    own = [
        f"{group}.{key}={section[group][key]}"
        for group, key in (("model", "name"), ("data", "name"))
        if user_code.is_reference(str(section[group].get(key)))
    ]
    trusted = ["run.trust_code=true"] if section["run"]["trust_code"] else []
    words = [f"scripts/{script}.py", f"checkpoint={checkpoint}", *arguments, *own, *trusted]
    return shlex.join(words)


def fault_arguments(section: Mapping[str, Any]) -> list[str]:
    """The fault section of a configuration as arguments of a command, as far as it says which sign test it
    is.
    """
    kind = section["kind"]
    group = section.get("mode", kind) if kind == "truncated_sign" else kind
    fields = {key: value for key, value in section.items() if key not in (*COMMON, "kind", "mode")}
    return [f"fault={group}", *(f"fault.{key}={value}" for key, value in fields.items() if value is not None)]


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
