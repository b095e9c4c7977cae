"""What a truncation at a site will do, foretold from the exact law and one measurement, without running the
network.

For a site with recorded activations z the law gives, for every k at once, the expected number of faults, and

    E(k) = mean of z^2 P(fault | z, k),

the mean square that faults add to its outputs (a fault moves an output by |z|, whatever its direction).
Networks respond to small errors linearly and different sites err independently, so squares of errors add up,
and

    harm(allocation) = sum over sites of  gain * E(k),    gain = divergence / E,

where the divergence of the class probabilities, which is quadratic in small errors, is measured once per
site, with faults at it alone (:func:`~circa_train.diagnosis.site_sensitivity`). Harm ranks candidates; only
network runs accept them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from circa_train.data import Batches, ImageSet
from circa_train.diagnosis import site_sensitivity
from circa_train.fault import TruncatedSign, fault_probability
from circa_train.field import bit_length
from circa_train.fixed_point import to_fixed
from circa_train.nn import evaluating, set_specs, site_inputs, stochastic_relus, without_faults
from circa_train.search.store import Store

#: Activations kept per site: their mean errs by about 1 / sqrt(this) of their spread, far below what the
#: gains err.
_KEPT = 1 << 16


@dataclass(frozen=True)
class SiteLaw:
    """The exact law on one site's recorded activations.

    Attributes:
        site: qualified name.
        faults: expected faults per activation, for each k.
        error: mean square that faults add to an output, for each k.
    """

    site: str
    faults: tuple[float, ...]
    error: tuple[float, ...]


def site_laws(
    network: nn.Module, images: ImageSet, spec: TruncatedSign, *, mean: Sequence[float], std: Sequence[float]
) -> list[SiteLaw]:
    """The law at every site for every k, on the activations of exact passes over ``images``.

    Raises:
        FixedPointOverflow: under the ``raise`` policy, naming the site.
    """
    relus = stochastic_relus(network)
    kept: dict[str, list[Tensor]] = {name: [] for name in relus}

    def record(name: str, z: Tensor) -> None:
        stride = max(1, z[0].numel() * len(images) // _KEPT)
        kept[name].append(z.flatten()[::stride].double())

    with evaluating(network), without_faults(network), site_inputs(network, record):
        for batch, _, _ in Batches(images, 32, mean=mean, std=std):
            network(batch)
    laws = []
    for name, relu in relus.items():
        z = torch.cat(kept[name])
        try:
            x, _ = to_fixed(z, relu.frac_bits, spec.prime, relu.settings.overflow)
        except ValueError as error:
            raise type(error)(f"site {name}: {error}") from error
        chances = [
            fault_probability(x, TruncatedSign(k, spec.mode, spec.prime))
            for k in range(bit_length(spec.prime))
        ]
        laws.append(
            SiteLaw(
                name,
                tuple(float(p.mean()) for p in chances),
                tuple(float((p * z * z).mean()) for p in chances),
            )
        )
    return laws


def site_gains(
    network: nn.Module,
    images: ImageSet,
    laws: Sequence[SiteLaw],
    spec: TruncatedSign,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    batch_size: int,
    store: Store,
    progress: bool = False,
) -> list[float]:
    """Divergence of the answers per squared error of each site's outputs, with the faults of ``spec`` at it
    alone.
    """
    assert isinstance(spec.k, int)
    key = f"divergences at k = {spec.k}"
    if store.value(key) is None:
        set_specs(network, spec)
        rows = site_sensitivity(network, images, mean=mean, std=std, batch_size=batch_size, progress=progress)
        store.set_value(key, {row.site: row.divergence for row in rows})
    divergences = store.value(key)
    return [divergences[law.site] / law.error[spec.k] if law.error[spec.k] > 0 else 0.0 for law in laws]
