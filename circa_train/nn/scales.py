"""How finely each channel is to be resolved: fraction bits chosen by the exact law.

relu(c z) = c relu(z), so the scale 2^f at which a sign test sees a channel is free. It decides the faults:
a larger x = round(z 2^f) ties less often (ties need |x| < 2^k), and wraps more often (|x| of p masks do).
For the pre-activations of calibration images the law gives, for every f, the damage to the channel's outputs

    D(f) = mean of z^2 (P + c P^2),    P = P(gate != [z > 0] | x),    c = SYSTEMATIC,

and the f with the least D is taken, channel by channel. Equally good ones: the smallest, which wraps least.
z^2 P is the expected squared error (:mod:`circa_train.nn.damage`). Of it z^2 P^2 is the square of the error's
mean: what every draw does alike at equal values. The following layers add over neighbours and channels, where
chance averages out and the mean does not. So the mean counts more. Ties are of this kind (P is near 1 for
small x), wraps are not.

The rule of overflow: the largest |z| that calibration sees in a channel, times 2^headroom_bits, must fit into
the field. It holds under every overflow policy, so no candidate overflows on the calibration images, and
other images may reach 2^headroom_bits times as far. A channel that hardly moves has seen little of what other
images do: it counts as if it reached a 2^8-th of what the site reaches. There its squares are 2^16 times
smaller than the largest of the site, and more resolution would gain nothing.

Where single elements of a map have lost their ReLU, the site sees a row of elements without channels. Those
that are of one channel of the map are resolved alike, as they are in the whole network: what one element did
on a few hundred images says little of what it will do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from circa_train.fault import SignTest, TruncatedSign
from circa_train.fixed_point import MAX_FRAC_BITS, FracBits, check_finite, largest_frac_bits, to_fixed
from circa_train.nn.control import evaluating, site_inputs, specs_by_site, stochastic_relus, without_faults
from circa_train.nn.convert import as_stochastic
from circa_train.nn.damage import squared_damage
from circa_train.nn.tracing.leaves import refuse_unfinished
from circa_train.nn.tracing.preserving import unchanged

#: Values that are kept of each channel and batch. Errors of neighbouring f differ by factors, so a
#: thousand values of a channel decide between them.
_KEPT = 256

#: Fraction bits below the largest allowed that are computed one by one: the best lies a few bits below it.
#: Below them nearly every value ties, D hardly changes, and nothing is chosen.
_WINDOW = 18

#: A channel counts as if it reached this share of its site at least.
_LEAST_REACH = 2.0**-8

#: Values times candidates that are computed at once: what bounds the memory of a site with many channels.
_AT_ONCE = 2**21

#: How much more the systematic part of an error counts, in D. Tried on ResNet-32 at 9 and 11 AND gates, both
#: modes, 1000 and 1600 test images: 1, 2 and 4 lose half a point less than 0 on average, and 16 loses more.
SYSTEMATIC = 4.0

#: The headroom of every channel, in bits, if nothing else is said.
HEADROOM_BITS = 2


@dataclass(frozen=True)
class SiteValues:
    """Pre-activations of a site on calibration images.

    Attributes:
        values: float64 (channels, values): a sample of each channel's, and the two extremes of everything
            that was seen. A rare large value counts: without it the law would close a channel that is nearly
            always negative for good.
        reach: float64 (channels,): the largest |z| of each, over everything that was seen.
        channel_of: int64 (elements,) where the site sees elements of a map: the row of ``values`` for each.
            None where it sees channels.
    """

    values: Tensor
    reach: Tensor
    channel_of: Tensor | None = None

    def largest(self, prime: int, headroom_bits: int = HEADROOM_BITS) -> list[int]:
        """The largest fraction bits of each channel that keep the headroom."""
        least = float(self.reach.max()) * _LEAST_REACH or 1.0
        return [
            largest_frac_bits(max(reach, least) * 2.0**headroom_bits, prime) for reach in self.reach.tolist()
        ]

    def at_site(self, of_channels: Sequence[int]) -> tuple[int, ...]:
        """Numbers by channel, as the site takes them: one for each channel or element that it sees."""
        numbers = torch.tensor(of_channels)
        return tuple((numbers if self.channel_of is None else numbers[self.channel_of]).tolist())

    def by_channel(self, at_site: int | tuple[int, ...]) -> int | tuple[int, ...]:
        """Inverse of :meth:`at_site`; one number for all stays one.

        Raises:
            ValueError: if there are more or fewer numbers than the site takes, or elements of a channel
                differ.
        """
        if isinstance(at_site, int):
            return at_site
        count = len(self.values) if self.channel_of is None else len(self.channel_of)
        if len(at_site) != count:
            raise ValueError(f"numbers for {len(at_site)} channels, but the site has {count}")
        if self.channel_of is None:
            return at_site
        found = torch.zeros(len(self.values), dtype=torch.int64)
        found[self.channel_of] = torch.tensor(at_site)
        if self.at_site(found.tolist()) != at_site:
            raise ValueError("elements of one channel have different numbers; scales are chosen by channel")
        return tuple(found.tolist())

    def mean(self, of_channels: Tensor) -> float:
        """The mean over what the site sees of a figure by channel."""
        return float((of_channels if self.channel_of is None else of_channels[self.channel_of]).mean())


def site_values(
    model: nn.Module, batches: Iterable[Tensor | tuple[Tensor, ...] | list[Tensor]]
) -> dict[str, SiteValues]:
    """The pre-activations at every site, in exact forward passes in evaluation mode; the model is left as it
    was.

    Args:
        model: a plain or converted network.
        batches: inputs as the network takes them, or tuples that start with them.

    Raises:
        ValueError: if there is no batch, or an activation is not finite or has no channels.
    """
    network = as_stochastic(model)
    refuse_unfinished(network)
    kept: dict[str, list[Tensor]] = {name: [] for name in stochastic_relus(network)}
    channel_of = {name: _channel_of(network, name) for name in kept}
    ends: dict[str, tuple[Tensor, Tensor]] = {}

    def record(name: str, z: Tensor) -> None:
        if z.dim() < 2:
            raise ValueError(f"site {name}: an activation of shape {tuple(z.shape)} has no channels")
        try:
            check_finite(z)
        except ValueError as error:
            raise ValueError(f"site {name}: {error}") from error
        rows = z.transpose(0, 1).flatten(1)
        low, high = (extreme.double() for extreme in torch.aminmax(rows, dim=1))
        if (of := channel_of[name]) is None:
            # an odd stride meets every place of an image in turn
            kept[name].append(rows[:, :: rows.shape[1] // _KEPT | 1].double())
        else:
            kept[name].append(_sample(rows, of).double())
            low, high = (_extreme(*each, of) for each in ((low, "amin"), (high, "amax")))
        seen = ends.get(name, (low, high))
        ends[name] = torch.minimum(seen[0], low), torch.maximum(seen[1], high)

    with unchanged(model), site_inputs(network, record), evaluating(network), without_faults(network):
        for batch in batches:
            network(batch[0] if isinstance(batch, (tuple, list)) else batch)
    if not ends:
        raise ValueError("batches is empty; calibration needs at least one batch of inputs")
    return {
        name: SiteValues(
            torch.cat([*parts, torch.stack(ends[name], 1)], 1),
            torch.stack(ends[name]).abs().amax(0),
            channel_of[name],
        )
        for name, parts in kept.items()
    }


def _channel_of(network: nn.Module, site: str) -> Tensor | None:
    """Of the elements that a site sees of a map, numbers of the channels that are left, from 0; else None.

    Known by a buffer of MaskedReLU's, which conversion keeps.
    """
    around = network.get_submodule(site.rpartition(".")[0])
    channels = dict(around.named_buffers(recurse=False)).get("channel_of_kept")
    return None if channels is None else channels.unique(return_inverse=True)[1]


def _sample(rows: Tensor, channel_of: Tensor) -> Tensor:
    """(channels, _KEPT): of the rows of each channel's elements, values at equal distances."""
    order, counts = channel_of.argsort(stable=True), channel_of.bincount()[:, None]
    images = rows.shape[1]
    stride = counts * images // _KEPT | 1
    place = torch.arange(_KEPT, device=rows.device) * stride % (counts * images)
    element = order[(counts.cumsum(0) - counts) + place // images]
    return rows[element, place % images]


def _extreme(rows: Tensor, which: str, channel_of: Tensor) -> Tensor:
    start = rows.new_zeros(int(channel_of.max()) + 1)
    return start.scatter_reduce(0, channel_of, rows, which, include_self=False)


def scale_errors(
    seen: SiteValues, spec: TruncatedSign, headroom_bits: int = HEADROOM_BITS
) -> Tensor:
    """D of every channel at 0 to 62 fraction bits: float64 (channels, 63), infinite where the headroom would
    not be kept.
    """
    k, largest = seen.by_channel(spec.k), torch.tensor(seen.largest(spec.prime, headroom_bits))
    pieces = []
    at_once = max(1, _AT_ONCE // ((_WINDOW + 1) * seen.values.shape[1]))
    for start in range(0, len(largest), at_once):
        piece = slice(start, start + at_once)
        there = replace(spec, k=k[piece] if isinstance(k, tuple) else k)
        pieces.append(_scale_errors(seen.values[piece], largest[piece], there))
    return torch.cat(pieces)


def _scale_errors(values: Tensor, largest: Tensor, spec: TruncatedSign) -> Tensor:
    """:func:`scale_errors` of some channels, whose ``largest`` fraction bits are known."""
    channels = len(values)
    candidates = (largest - torch.arange(_WINDOW + 1)[:, None]).clamp(min=0)  # one row per step down
    # all at once: as many channels as there are candidates
    every = values.repeat(len(candidates), 1)
    repeated = replace(spec, k=spec.k * len(candidates)) if isinstance(spec.k, tuple) else spec
    found = _squared_errors(every, tuple(candidates.flatten().tolist()), repeated).reshape(candidates.shape)
    errors = torch.full((channels, MAX_FRAC_BITS + 1), torch.inf, dtype=torch.float64)
    errors.scatter_(1, candidates.T, found.T.cpu())
    lowest = candidates[-1]
    below_all = torch.arange(MAX_FRAC_BITS + 1) < lowest[:, None]
    more = torch.nextafter(errors.gather(1, lowest[:, None]), torch.tensor(torch.inf, dtype=torch.float64))
    return torch.where(below_all, more, errors)


def squared_errors(
    seen: SiteValues, frac_bits: FracBits, spec: TruncatedSign, overflow: str = "raise"
) -> Tensor:
    """D of every channel at given fraction bits: float64 (channels,). Under ``wrap`` and ``saturate`` a value
    that does not fit counts as wrong for certain.

    Raises:
        FixedPointOverflow: under ``raise``, if a value does not fit.
    """
    there = replace(spec, k=seen.by_channel(spec.k))
    return _squared_errors(seen.values, seen.by_channel(frac_bits), there, overflow)


def _squared_errors(
    rows: Tensor, frac_bits: FracBits, spec: TruncatedSign, overflow: str = "raise"
) -> Tensor:
    """:func:`squared_errors` of values (channels, values), with fraction bits and k by channel."""
    values = rows.T  # dimension 1 is the channel
    squares, damage = values**2, squared_damage(values, spec, frac_bits)
    outside = damage.isinf()
    if bool(outside.any()):
        if overflow == "raise":
            to_fixed(values, frac_bits, spec.prime)
        damage = torch.where(outside, squares, damage)
    systematic = torch.where(squares > 0, damage**2 / squares, 0.0)
    return (damage + SYSTEMATIC * systematic).mean(0)


def best_frac_bits(seen: SiteValues, errors: Tensor) -> tuple[int, ...]:
    """The fraction bits with the least error, as the site takes them; of equally good ones the smallest."""
    return seen.at_site(errors.argmin(1).tolist())


def fit_scales(
    model: nn.Module,
    batches: Iterable[Tensor | tuple[Tensor, ...] | list[Tensor]],
    spec: SignTest | Mapping[str, SignTest],
    *,
    headroom_bits: int = HEADROOM_BITS,
) -> dict[str, FracBits]:
    """Fraction bits of every channel of every site, chosen by the law for the sign tests ``spec``.

    Args:
        model: a plain or converted network (left as it was).
        batches: calibration inputs as the network takes them, or tuples that start with them; a few hundred
            training images.
        spec: the sign test of all sites, or one per site.
        headroom_bits: each doubles the range that other images may take, see the module's page.

    Returns:
        {site: one number per channel}, for ``with_stochastic_relus(..., frac_bits=...)``. A site that stays
        exact gets one number.

    Raises:
        ValueError: as :func:`site_values`; for a sign test whose faults are not those of a truncation; or if
            the headroom leaves nothing.

    Example:
        >>> spec = TruncatedSign(20)
        >>> network = with_stochastic_relus(model, spec, frac_bits=fit_scales(model, [images], spec))
    """
    if not 0 <= headroom_bits <= 30:
        raise ValueError(f"headroom_bits = {headroom_bits} is outside [0, 30]")
    seen = site_values(model, batches)
    found: dict[str, FracBits] = {}
    for name, site_spec in specs_by_site(spec, seen).items():
        if site_spec.is_exact:
            found[name] = min(seen[name].largest(site_spec.prime, headroom_bits))
        elif type(site_spec) is TruncatedSign:
            found[name] = best_frac_bits(
                seen[name], scale_errors(seen[name], site_spec, headroom_bits)
            )
        else:
            raise ValueError(
                f"site {name}: scales are chosen by the law of Circa's truncated sign, and the test there is "
                f"{site_spec.kind!r}; fit_frac_bits finds one number for any sign test"
            )
    return found
