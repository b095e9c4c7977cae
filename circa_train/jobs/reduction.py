"""The reduction section of a configuration: ReLUs that are removed by rule, or chosen by training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from typing import Any

from circa_train.cost import network_cost
from circa_train.fault import SignTest, sign_test_from_dict
from circa_train.jobs.faults import read_fault_file
from circa_train.jobs.settings import LearnedReductionConfig, ReductionConfig, RemovalConfig
from circa_train.training import ReductionSettings

UNITS = ("relus", "bytes")


def build_reduction(section: ReductionConfig, *, exact: bool) -> ReductionSettings | None:
    """The settings of a learned reduction, None where none is asked for.

    Args:
        section: ``reduction`` of the configuration.
        exact: is the network to be trained with exact ReLUs?

    Raises:
        ValueError, TypeError: for a value that cannot be, or sign tests in the network.
    """
    if not isinstance(section, LearnedReductionConfig):
        return None
    if not exact:
        raise ValueError(
            "reduction=snl chooses ReLUs with exact ones in their places: leave fault=none, and fine-tune "
            "with the faults afterwards (model=checkpoint checkpoint=RUN/best.pt fault=...)"
        )
    if section.unit not in UNITS:
        raise ValueError(f"reduction.unit = {section.unit!r} is not one of {', '.join(UNITS)}")
    if (section.price is not None) != (section.unit == "bytes"):
        raise ValueError(
            f"reduction.unit = {section.unit} with reduction.price = {section.price}: bytes need the sign "
            "test that is to be paid for, such as reduction.price={kind: truncated_sign, k: 12}, and a "
            "number of ReLUs needs none"
        )
    if section.price is not None:
        _price_specs(section.price)
    own = {each.name for each in fields(ReductionSettings)}
    return ReductionSettings(**{key: value for key, value in asdict(section).items() if key in own})


def relu_prices(section: ReductionConfig, sites: Iterable[str]) -> dict[str, int] | None:
    """Bytes of one ReLU by site, as :mod:`circa_train.cost` counts them; None where ReLUs are counted.

    Raises:
        ValueError: for sign tests without a circuit, of channels that differ, or missing at a site.
    """
    if not isinstance(section, LearnedReductionConfig) or section.price is None:
        return None
    specs = _price_specs(section.price)
    listed = [(site, 1) for site in sites]
    for spec in specs.values() if isinstance(specs, Mapping) else [specs]:
        if len(list(spec.channels())) > 1:
            raise ValueError(
                f"reduction.price: {spec.kind} differs from channel to channel; a ReLU's price is one number "
                "per site"
            )
    cost = network_cost(listed, specs, accounting=section.accounting)
    return {each.site: each.bytes for each in cost.sites}


def _price_specs(price: Any) -> SignTest | dict[str, SignTest]:
    """One sign test, or one per site from a fault file, as the search writes it."""
    if not isinstance(price, Mapping):
        raise TypeError(
            f"reduction.price is a sign test such as {{kind: truncated_sign, k: 12}}, or {{path: FILE}} of "
            f"one per site, not {price!r}"
        )
    if "path" in price:
        return read_fault_file(price["path"])[0]
    return sign_test_from_dict(dict(price))


def removed_by_rule(section: ReductionConfig, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of ``build_model`` with the removal that the section asks for.

    Raises:
        ValueError: if it removes nothing, or if the network has a reduction already.
    """
    if not isinstance(section, RemovalConfig):
        return arguments
    rule = {key: getattr(section, key) for key in ("stages", "alternate", "sites") if getattr(section, key)}
    if not rule:
        raise ValueError(
            "reduction=removal removes nothing: give reduction.stages=[layer1], reduction.alternate=true or "
            "reduction.sites=[...]"
        )
    if arguments.get("reduction"):
        raise ValueError(
            f"reduction={section.method} beside a network that is reduced already "
            f"({', '.join(arguments['reduction'])}); write the whole of it in model.reduction"
        )
    return {**arguments, "reduction": rule}
