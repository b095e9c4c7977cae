"""The kind-specific parts of ``result.json``: what an evaluation records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import nn

from circa_train.config.build import FaultPlan
from circa_train.config.schema import EvaluateConfig
from circa_train.config.source import Source
from circa_train.data import Batches
from circa_train.evaluation import FIRST_DRAW, Evaluation, evaluate
from circa_train.fault import FaultKinds, SignTest, TruncatedSign, expected_faults
from circa_train.field import bit_length
from circa_train.fixed_point import to_fixed
from circa_train.nn.control import evaluating, set_draw, site_inputs, specs_by_site, stochastic_relus
from circa_train.nn.observation import observe

#: One AND gate of a comparison, garbled with half gates (Zahur, Rosulek, Evans 2015).
_BYTES_PER_AND = 32


def evaluation_record(source: Source, plan: FaultPlan, config: EvaluateConfig) -> dict[str, Any]:
    """Evaluate ``source`` as ``config`` asks, and return what ``result.json`` holds for kind ``evaluate``."""
    network = source.converted(config.fault, plan)
    measured = evaluate(
        network,
        source.images(config.split),
        mean=source.splits.mean,
        std=source.splits.std,
        draws=config.draws.count,
        batch_size=config.batch_size,
        until_width=config.draws.until_width,
        max_draws=config.draws.most,
        progress=config.run.progress,
    )
    metadata = source.checkpoint.metadata
    return {
        "accuracy": describe_evaluation(measured),
        "baseline_accuracy": source.baseline(config.split, config.batch_size).mean,
        "model": describe_model(metadata["model"]),
        "data": source.splits.name,
        "split": config.split,
        "checkpoint": config.checkpoint,
        "finetuned": source.finetuned,
        "trained_fault": metadata.get("fault"),
        "fault": plan.description,
        "frac_bits": source.frac_bits(config.fault, plan),
        "cost": comparison_cost(source.relus(), plan),
        "sites": site_records(network, source, config) if config.sites else [],
    }


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


def site_records(network: nn.Module, source: Source, config: EvaluateConfig) -> list[dict[str, Any]]:
    """Per site, on the first batch: faults counted in one draw, and those the exact law expects of the same
    activations.
    """
    expected: dict[str, FaultKinds] = {}
    relus = stochastic_relus(network)

    def record(name: str, z: Any) -> None:
        relu = relus[name]
        if relu.spec.is_exact:
            expected[name] = FaultKinds(values=z.numel())
            return
        x, _ = to_fixed(z, relu.frac_bits, relu.spec.prime, config.fault.overflow)
        expected[name] = expected_faults(x, relu.spec)

    splits = source.splits
    batches = Batches(source.images(config.split), config.batch_size, mean=splits.mean, std=splits.std)
    images, _, first = next(iter(batches))
    with evaluating(network), observe(network) as seen, site_inputs(network, record):
        set_draw(network, FIRST_DRAW, first)
        network(images)
    return [
        {
            "site": name,
            "relus": source.relus()[name],
            "expected": asdict(expected[name]),
            "observed": asdict(seen[name].faults),
            "low": seen[name].low if seen[name].values else None,
            "high": seen[name].high if seen[name].values else None,
            "overflows": seen[name].overflows,
        }
        for name in relus
    ]
