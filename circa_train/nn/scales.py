"""How finely each channel is to be resolved: fraction bits chosen by the exact law.

relu(c z) = c relu(z), so the scale 2^f at which a sign test sees a channel is free. It decides the faults:
a larger x = round(z 2^f) ties less often (ties need |x| < 2^k), and wraps more often (|x| of p masks do).
For the pre-activations of calibration images the law gives, for every f, the damage to the channel's outputs

    D(f) = mean of z^2 (P + c P^2),    P = P(gate != [z > 0] | x),    c = SYSTEMATIC,

and the f with the least D is taken, channel by channel. Equally good ones: the smallest, which wraps least.
z^2 P is the expected squared error (:mod:`circa_train.nn.damage`). Of it z^2 P^2 is the square of the error's
mean: what every draw does alike at equal values. The following layers add over neighbours and channels, where
chance averages out and the mean does not. So the mean counts more. Ties are of this kind (P is near 1 for
small x), wraps are not. Weighed by the importance of the values (:mod:`circa_train.nn.site_values`), D at
given fraction bits is the damage to the network's answers; it compares sites, and chooses no f.

The rule of overflow: the largest |z| that calibration sees in a channel, times 2^headroom_bits, must fit into
the field. It holds under every overflow policy, so no candidate overflows on the calibration images, and
other images may reach 2^headroom_bits times as far. A channel that hardly moves has seen little of what other
images do: it counts as if it reached a 2^8-th of what the site reaches. There its squares are 2^16 times
smaller than the largest of the site, and more resolution would gain nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from circa_train.fault import SignTest, TruncatedSign
from circa_train.fixed_point import MAX_FRAC_BITS, FracBits, to_fixed
from circa_train.nn.control import specs_by_site
from circa_train.nn.damage import squared_damage
from circa_train.nn.site_values import HEADROOM_BITS, SiteValues, site_values

#: Fraction bits below the largest allowed that are computed one by one: the best lies a few bits below it.
#: Below them nearly every value ties, D hardly changes, and nothing is chosen.
_WINDOW = 18

#: Values times candidates that are computed at once: what bounds the memory of a site with many channels.
_AT_ONCE = 2**21

#: How much more the systematic part of an error counts, in D. Tried on ResNet-32 at 9 and 11 AND gates, both
#: modes, 1000 and 1600 test images: 1, 2 and 4 lose half a point less than 0 on average, and 16 loses more.
SYSTEMATIC = 4.0


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
    bits = tuple(candidates.flatten().tolist())
    found = _error_of_each(every, bits, repeated).mean(0).reshape(candidates.shape)
    errors = torch.full((channels, MAX_FRAC_BITS + 1), torch.inf, dtype=torch.float64)
    errors.scatter_(1, candidates.T, found.T.cpu())
    lowest = candidates[-1]
    below_all = torch.arange(MAX_FRAC_BITS + 1) < lowest[:, None]
    more = torch.nextafter(errors.gather(1, lowest[:, None]), torch.tensor(torch.inf, dtype=torch.float64))
    return torch.where(below_all, more, errors)


def squared_errors(
    seen: SiteValues, frac_bits: FracBits, spec: TruncatedSign, overflow: str = "raise"
) -> Tensor:
    """D of every channel at given fraction bits, each value weighed by its importance where that is known:
    float64 (channels,). Under ``wrap`` and ``saturate`` a value that does not fit counts as wrong for
    certain.

    Raises:
        FixedPointOverflow: under ``raise``, if a value does not fit.
    """
    there = replace(spec, k=seen.by_channel(spec.k))
    errors = _error_of_each(seen.values, seen.by_channel(frac_bits), there, overflow)
    return (errors if seen.importance is None else errors * seen.importance.T).mean(0)


def _error_of_each(
    rows: Tensor, frac_bits: FracBits, spec: TruncatedSign, overflow: str = "raise"
) -> Tensor:
    """z^2 (P + c P^2) of values (channels, values), with fraction bits and k by channel; transposed."""
    values = rows.T  # dimension 1 is the channel
    squares, damage = values**2, squared_damage(values, spec, frac_bits)
    outside = damage.isinf()
    if bool(outside.any()):
        if overflow == "raise":
            to_fixed(values, frac_bits, spec.prime)
        damage = torch.where(outside, squares, damage)
    systematic = torch.where(squares > 0, damage**2 / squares, 0.0)
    return damage + SYSTEMATIC * systematic


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
