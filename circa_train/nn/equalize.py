"""Fewer bits for nothing: every channel gets the scale that its sign test does least harm at.

relu(c z) = c relu(z), and what a sign test costs depends only on the ratio of the field to 2^k, so a network
may be rewritten channel by channel without changing what it computes:

1. which channels must share a scale, and which must keep theirs, is read off the traced graph
   (:mod:`circa_train.nn.equalizing.groups`);
2. for each group, the exact law gives the expected squared error on calibration images of every power of two
   (:mod:`circa_train.nn.damage`), and the least harmful one is taken;
3. the scales go into the weights (:mod:`circa_train.nn.equalizing.scaling`), and on a calibration batch the
   outputs are checked to be the same bits.

The rewritten network is for export, verification and other people's runtimes. Do not fine-tune it: a rescaled
weight is another step size and another decay, and training comes apart. Fine-tune the network as it was, with
fraction bits per channel at the sites, and equalize the result.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from circa_train.fault import SignTest
from circa_train.field import largest_centred
from circa_train.fixed_point import FixedPointOverflow, FracBits, check_finite, scale_like
from circa_train.nn.control import (
    evaluating,
    frac_bits_by_site,
    site_inputs,
    specs_by_site,
    stochastic_relus,
    without_faults,
)
from circa_train.nn.convert import as_stochastic
from circa_train.nn.damage import squared_damage
from circa_train.nn.equalizing.groups import NONE, ChannelGroups, channel_groups
from circa_train.nn.equalizing.report import Equalization
from circa_train.nn.equalizing.scaling import apply_scales, groups_out_of_range
from circa_train.nn.site_values import HEADROOM_BITS
from circa_train.nn.tracing.errors import ConversionError
from circa_train.nn.tracing.preserving import unchanged

Network = TypeVar("Network", bound=nn.Module)

#: Powers of two that are tried: enough for channels 2^8 times smaller than the network's largest.
EXPONENTS = (-8, 8)
#: A channel that hardly moves on calibration images has shown little of what it may do: it counts as if it
#: reached this share of what its site reaches.
_LEAST_REACH = 2.0**-8
#: Elements of a site's batch that the law is computed for. Damages of neighbouring exponents differ by
#: factors, so a sample decides between them.
_SAMPLE = 1 << 15

#: A gain of less than this part of the damage is no reason to rescale: the sample does not tell it from none.
_WORTH = 1e-3


def equalize(
    model: Network,
    batches: Iterable[Tensor | tuple[Tensor, ...] | list[Tensor]],
    spec: SignTest | Mapping[str, SignTest] | None = None,
    *,
    frac_bits: int | Sequence[int] | Mapping[str, int | Sequence[int]] | None = None,
    exponents: tuple[int, int] = EXPONENTS,
    headroom_bits: int = HEADROOM_BITS,
) -> tuple[Network, Equalization]:
    """A rewritten copy of ``model`` that computes the same, and suffers least from the given sign tests.

    The copy is of the same class with the same ``state_dict`` keys; a converted network keeps its sign tests,
    fraction bits and masks. ``model`` is left as it was.

    Args:
        model: a plain or converted network.
        batches: calibration inputs as the network takes them, or tuples that start with them; a few hundred
            training images.
        spec: the sign test of all sites, or one per site. None: those of a converted network.
        frac_bits: fraction bits at which the sign tests will see the rewritten network. None: those of a
            converted network.
        exponents: the least and the largest power of two that is tried.
        headroom_bits: the largest value of a group, times 2^headroom_bits, must fit into the field.

    Returns:
        (network, report): what was scaled by what, what was not and why, and the damage expected before and
        after. ``report.undo(network)`` is the inverse.

    Raises:
        ConversionError: if the network cannot be traced, or the copy's outputs are other bits than the
            network's on the first calibration batch.
        FixedPointOverflow: if a group that cannot be scaled, or not far enough, leaves the field.
        ValueError: for an empty ``batches``, a value that is not finite, or missing sites.

    Example:
        >>> network, report = equalize(model, [images], TruncatedSign(k=20), frac_bits=20)
        >>> print(report)
    """
    low, high = exponents
    if not (-60 <= low <= 0 <= high <= 60) or not 0 <= headroom_bits <= 30:
        raise ValueError(
            f"exponents = {exponents}, headroom_bits = {headroom_bits}: the exponents must hold 0 and lie in "
            "[-60, 60], headroom_bits in [0, 30]"
        )
    found = [batch if isinstance(batch, (tuple, list)) else (batch,) for batch in batches]
    if not found:
        raise ValueError("batches is empty; calibration needs at least one batch of inputs")
    network = as_stochastic(model)
    relus = stochastic_relus(network)
    if (spec is None or frac_bits is None) and network is not model:
        raise ValueError("the network has no sign tests of its own: give spec= and frac_bits=")
    specs = {name: r.spec for name, r in relus.items()} if spec is None else specs_by_site(spec, relus)
    bits = (
        {n: r.frac_bits for n, r in relus.items()}
        if frac_bits is None
        else frac_bits_by_site(frac_bits, relus)
    )
    example = tuple(part[:2] if isinstance(part, Tensor) and part.dim() else part for part in found[0])
    groups = channel_groups(model, example[:1])
    if set(groups.sites) != set(relus):
        other = sorted(set(groups.sites) ^ set(relus))
        raise ConversionError(f"the sites {', '.join(other)} of the network are not those of its trace")
    measured = _Measured(groups, specs, bits, range(low, high + 1), headroom_bits)
    with (
        unchanged(model),
        site_inputs(network, measured.record),
        evaluating(network),
        without_faults(network),
    ):
        for batch in found:
            measured.images = len(batch[0])
            network(batch[0])
    chosen, kept = _choose(groups, measured), dict[int, str]()
    while lost := groups_out_of_range(model, groups, [2.0**e for e in chosen]):
        for group, parameter in lost.items():
            chosen[group] = 0
            kept[group] = f"values of {parameter} would leave the range of their floating-point format"
    measured.check(chosen)
    scales = tuple(2.0**e for e in chosen)
    rewritten = apply_scales(model, groups, scales)
    _compare(model, rewritten, example[:1])
    before, after = measured.by_site([0] * groups.count), measured.by_site(chosen)
    return rewritten, Equalization(groups, scales, before, after, kept)


class _Measured:
    """The damage of every exponent, by site and group, as activations come in."""

    def __init__(
        self,
        groups: ChannelGroups,
        specs: Mapping[str, SignTest],
        frac_bits: Mapping[str, FracBits],
        exponents: range,
        headroom_bits: int,
    ) -> None:
        self.groups, self.specs, self.frac_bits = groups, specs, frac_bits
        self.exponents, self.headroom_bits = exponents, headroom_bits
        #: Summed over images, by site: (exponents, groups and one more for elements that are always zero).
        self.damage: dict[str, Tensor] = {}
        #: The largest value times 2^frac_bits, and the largest of the whole site, by site: (groups and one).
        self.reach: dict[str, Tensor] = {}
        self.images = 0
        self.total = 0

    def record(self, site: str, z: Tensor) -> None:
        """The input of a site, (images, channels, ...)."""
        try:
            check_finite(z)
        except ValueError as error:
            raise ValueError(f"site {site}: {error}") from error
        places = self.groups.sites[site]
        if places.shape != z.shape[1:]:
            raise ValueError(
                f"site {site}: an activation has shape {tuple(z.shape[1:])}, and in the first batch it had "
                f"{tuple(places.shape)}; calibrate on images of one size"
            )
        if site == next(iter(self.groups.sites)):
            self.total += len(z)
        z = z.detach().reshape(len(z), len(places), -1).cpu()
        places = places.reshape(len(places), -1)
        count = self.groups.count + 1
        values = (z.double() * scale_like(self.frac_bits[site], z)).abs().amax(0)
        reach = torch.zeros(count, dtype=torch.float64)
        reach.scatter_reduce_(0, (places % count).reshape(-1), values.reshape(-1), "amax")
        here = torch.zeros(count, dtype=torch.bool)
        here[places.reshape(-1)] = True
        reach = torch.where(here, reach.clamp(min=float(values.max()) * _LEAST_REACH), reach)
        self.reach[site] = torch.maximum(self.reach.get(site, reach), reach)
        kept = max(1, min(z.shape[2], _SAMPLE // max(1, z.shape[0] * z.shape[1])))
        chosen = torch.randperm(z.shape[2], generator=torch.Generator().manual_seed(0))[:kept]
        sample, index = z[:, :, chosen], (places[:, chosen] % count).reshape(-1)
        table = self.damage.setdefault(site, torch.zeros(len(self.exponents), count, dtype=torch.float64))
        for row, exponent in zip(table, self.exponents, strict=True):
            damage = squared_damage(sample, self.specs[site], self.frac_bits[site], exponent).sum(0)
            row.index_add_(0, index, damage.reshape(-1) * (z.shape[2] / kept))

    def allowed(self) -> Tensor:
        """Which groups keep their headroom at which exponent: (exponents, groups)."""
        fits = torch.ones(len(self.exponents), self.groups.count + 1, dtype=torch.bool)
        for site, reach in self.reach.items():
            limit = largest_centred(self.specs[site].prime) / 2.0**self.headroom_bits
            scale = torch.tensor([2.0**e for e in self.exponents], dtype=torch.float64)
            fits &= (scale[:, None] * reach <= limit) | (reach == 0)
        return fits[:, :-1]

    def by_site(self, exponents: Sequence[int]) -> dict[str, float]:
        """Expected squared error of each site's outputs per image."""
        rows = torch.tensor([*exponents, 0]) - self.exponents[0]
        columns = torch.arange(len(rows))
        return {site: float(table[rows, columns].sum()) / self.total for site, table in self.damage.items()}

    def check(self, exponents: Sequence[int]) -> None:
        """FixedPointOverflow for a group whose values leave the field on the calibration images."""
        for site, reach in self.reach.items():
            limit = largest_centred(self.specs[site].prime)
            scaled = reach[:-1] * torch.tensor([2.0**e for e in exponents], dtype=torch.float64)
            group = int(scaled.argmax())
            if float(scaled[group]) > limit:
                why = "; ".join(self.groups.kept.get(group, ("every exponent that is tried overflows",)))
                raise FixedPointOverflow(
                    f"site {site}: values of group {group} reach {float(scaled[group]):.6g} in fixed point, "
                    f"and the field ends at {limit}. It is not scaled down: {why}. Use fewer fraction bits"
                )


def _choose(groups: ChannelGroups, measured: _Measured) -> list[int]:
    """The exponent of least damage for each group; of those that are as good, the nearest to 0."""
    damage = sum(table[:, :-1] for table in measured.damage.values())
    assert isinstance(damage, Tensor)
    allowed = measured.allowed()
    order = sorted(range(len(measured.exponents)), key=lambda place: (abs(measured.exponents[place]), place))
    damage = torch.where(allowed, damage, torch.inf)[order]
    seen = torch.zeros(groups.count, dtype=torch.bool)
    for places in groups.sites.values():
        present = places[places != NONE].unique()
        seen[present] = True
    best = (damage <= damage.amin(0) * (1 + _WORTH)).long().argmax(0).tolist()
    some = allowed.any(0).tolist()
    lowest = measured.exponents[0]
    chosen = [0] * groups.count
    for group in groups.free:
        if seen[group]:
            chosen[group] = measured.exponents[order[best[group]]] if some[group] else lowest
    return chosen


def _compare(model: nn.Module, rewritten: nn.Module, example: tuple[Any, ...]) -> None:
    """ConversionError unless both give the same bits (on a GPU, whose libraries may sum up in another order,
    the same values).
    """
    outputs = []
    for network in (model, rewritten):
        with unchanged(network), evaluating(network), without_faults(network):
            leaves = pytree.tree_leaves(network(*example))
            outputs.append([leaf for leaf in leaves if isinstance(leaf, Tensor)])
    for a, b in zip(*outputs, strict=True):
        same = torch.equal(a, b) or (a.is_cuda and torch.allclose(a, b, rtol=1e-4, atol=1e-5))
        if not same:
            raise ConversionError(
                f"the rewritten network's outputs differ by up to {float((a - b).abs().max()):.3g}, though "
                "every scale is a power of two: a value left the range of its floating-point format, or the "
                "network does what its trace does not show"
            )
