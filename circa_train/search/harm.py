"""What a truncation at a site will do, foretold from the exact law and one measurement, without running the
network.

For a site with recorded activations z the law gives, for every sign test and scale,

    E = mean of z^2 (P + c P^2),    P = P(gate wrong | z),

the mean square that faults add to its outputs (a fault moves an output by |z|, whatever its direction), the
systematic part counted more (:mod:`circa_train.nn.scales`).
Networks respond to small errors linearly and different sites err independently, so squares of errors add up,
and

    harm(allocation) = sum over sites of  gain * E(k),    gain = divergence / E,

where the divergence of the class probabilities, which is quadratic in small errors, is measured once per
site, with faults at it alone (:func:`~circa_train.diagnosis.site_sensitivity`). Harm ranks candidates; only
network runs accept them.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from circa_train.cost import network_cost
from circa_train.data import ImageSet
from circa_train.diagnosis import site_sensitivity
from circa_train.search.allocation import Tables
from circa_train.search.choices import Choices
from circa_train.search.store import Store


def site_gains(
    network: nn.Module,
    images: ImageSet,
    choices: Choices,
    k: int,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    batch_size: int,
    store: Store,
    progress: bool = False,
) -> list[float]:
    """Divergence of the answers per damage to each site's outputs, with the faults of ``k`` at it alone."""
    key = f"divergences at k = {k}"
    if store.value(key) is None:
        choices.put(network, (k,) * len(choices.sites))
        rows = site_sensitivity(network, images, mean=mean, std=std, batch_size=batch_size, progress=progress)
        store.set_value(key, {row.site: row.divergence for row in rows})
    divergences = store.value(key)
    errors = [of[k] for of in choices.errors]
    return [
        divergences[site] / error if error > 0 else 0.0
        for site, error in zip(choices.sites, errors, strict=True)
    ]


def tables_of(choices: Choices, gains: Sequence[float], sites: Sequence[tuple[str, int]]) -> Tables:
    """Cost and harm of every k at every site."""
    return Tables(
        gates=tuple(
            tuple(network_cost([site], spec, accounting="tables").and_gates for spec in specs)
            for site, specs in zip(sites, choices.specs, strict=True)
        ),
        harm=tuple(
            tuple(gain * error for error in errors)
            for gain, errors in zip(gains, choices.errors, strict=True)
        ),
    )
