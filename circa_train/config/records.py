"""The kind-specific parts of ``result.json``: what an evaluation records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import nn

from circa_train.config.build import FaultPlan
from circa_train.config.schema import EvaluateConfig
from circa_train.config.source import Source
from circa_train.cost import has_circuit, network_cost
from circa_train.data import Batches
from circa_train.evaluation import FIRST_DRAW, Evaluation, evaluate
from circa_train.nn.control import evaluating, set_draw, specs_by_site, stochastic_relus
from circa_train.nn.observation import expect, observe


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
        "cost": describe_cost(source.relus(), plan),
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


def describe_cost(relus: Mapping[str, int], plan: FaultPlan) -> dict[str, int | None]:
    """ReLUs per image, and the AND gates and bytes of garbled tables of their sign tests, as
    :mod:`circa_train.cost` counts them; None where a site's fault model has no circuit.
    """
    specs = specs_by_site(plan.faults, relus)
    cost: dict[str, int | None] = {"relus": sum(relus.values()), "and_gates": None, "table_bytes": None}
    if all(has_circuit(spec) for spec in specs.values()):
        network = network_cost(list(relus.items()), specs, accounting="tables")
        cost |= {"and_gates": network.and_gates, "table_bytes": network.bytes}
    return cost


def site_records(network: nn.Module, source: Source, config: EvaluateConfig) -> list[dict[str, Any]]:
    """Per site, on the first batch: faults counted in one draw, and those the exact law expects of the same
    activations.
    """
    splits = source.splits
    batches = Batches(source.images(config.split), config.batch_size, mean=splits.mean, std=splits.std)
    images, _, first = next(iter(batches))
    with evaluating(network), observe(network) as seen, expect(network) as expected:
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
        for name in stochastic_relus(network)
    ]
