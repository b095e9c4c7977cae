"""What may stand at every site, for every k: a sign test and fraction bits.

The network *as it is* has one mode, and the fraction bits that it came with. *By the law*, every site has for
every k the mode that does less to its outputs, and every channel the scale that does least
(:mod:`circa_train.nn.scales`). Gradients weigh sites against each other, but do not choose within one: on a
network that is sure of its answers a few hundred images say too little of single channels (the quickstart's
lost a bit by it). relu(c z) = c relu(z), so the scales are free, and a mode costs as many AND gates as the
other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from circa_train.fault import TruncatedSign, fault_probability
from circa_train.fault.circa import MODES
from circa_train.field import bit_length
from circa_train.fixed_point import FracBits, to_fixed
from circa_train.nn import set_frac_bits, set_specs, stochastic_relus
from circa_train.nn.scales import best_frac_bits, scale_errors, squared_errors
from circa_train.nn.site_values import SiteValues
from circa_train.search.allocation import Allocation


@dataclass(frozen=True)
class Choices:
    """Sign test and fraction bits of every site, for every k.

    Attributes:
        name: what they are called in reports: ``as it is`` or ``by the law``.
        sites: qualified names, in the order of execution.
        specs: ``specs[site][k]``.
        frac_bits: ``frac_bits[site][k]``.
        errors: by the law, the damage to an output: ``errors[site][k]``.
    """

    name: str
    sites: tuple[str, ...]
    specs: tuple[tuple[TruncatedSign, ...], ...]
    frac_bits: tuple[tuple[FracBits, ...], ...]
    errors: tuple[tuple[float, ...], ...] = field(compare=False)

    def specs_of(self, ks: Allocation) -> dict[str, TruncatedSign]:
        """The sign tests of an allocation, by site."""
        return {site: of[k] for site, of, k in zip(self.sites, self.specs, ks, strict=True)}

    def frac_bits_of(self, ks: Allocation) -> int | dict[str, FracBits]:
        """Its fraction bits: one number if all sites have it, else by site."""
        found = {site: of[k] for site, of, k in zip(self.sites, self.frac_bits, ks, strict=True)}
        first = next(iter(found.values()))
        return first if isinstance(first, int) and all(each == first for each in found.values()) else found

    def faults_of(self, ks: Allocation, seen: Mapping[str, SiteValues]) -> tuple[float, ...]:
        """By the law, the faults to expect per activation of each site."""
        found = []
        for site, specs, frac_bits, k in zip(self.sites, self.specs, self.frac_bits, ks, strict=True):
            bits = seen[site].by_channel(frac_bits[k])
            x, _ = to_fixed(seen[site].values.T, bits, specs[k].prime, "wrap")
            found.append(seen[site].mean(fault_probability(x, specs[k]).mean(0)))
        return tuple(found)

    def put(self, network: nn.Module, ks: Allocation) -> None:
        """Let the sites of a network be those of an allocation."""
        set_frac_bits(network, self.frac_bits_of(ks))
        set_specs(network, self.specs_of(ks))


def as_it_is(network: nn.Module, seen: Mapping[str, SiteValues], spec: TruncatedSign) -> Choices:
    """Every k in the mode and field of ``spec``, at the fraction bits that the network has.

    Raises:
        FixedPointOverflow: under the ``raise`` policy, naming the site.
    """
    relus = stochastic_relus(network)
    specs = tuple(TruncatedSign(k, spec.mode, spec.prime) for k in range(bit_length(spec.prime)))
    errors = []
    for name, relu in relus.items():
        try:
            errors.append(
                tuple(
                    seen[name].mean(
                        squared_errors(seen[name], relu.frac_bits, each, relu.settings.overflow)
                    )
                    for each in specs
                )
            )
        except ValueError as error:
            raise type(error)(f"site {name}: {error}") from error
    return Choices(
        "as it is",
        tuple(relus),
        (specs,) * len(relus),
        tuple((relu.frac_bits,) * len(specs) for relu in relus.values()),
        tuple(errors),
    )


def by_the_law(
    seen: Mapping[str, SiteValues], spec: TruncatedSign, first_k: int, headroom_bits: int,
    done: Callable[[], object] = lambda: None,
) -> Choices:  # fmt: skip
    """For every k the better mode and the best scales, in the field of ``spec``.

    Below ``first_k``, where truncation does next to nothing, the scales of ``first_k`` stay: to search for
    better ones takes time, and saves nothing. ``done`` is called after every site.
    """
    columns: tuple[list[Any], list[Any], list[Any]] = ([], [], [])
    for values in seen.values():
        options = [_options(values, mode, spec.prime, first_k, headroom_bits) for mode in MODES]
        best = [min(each, key=lambda option: option[2]) for each in zip(*options, strict=True)]
        for into, part in zip(columns, (0, 1, 3), strict=True):
            into.append(tuple(option[part] for option in best))
        done()
    specs, frac_bits, errors = map(tuple, columns)
    return Choices("by the law", tuple(seen), specs, frac_bits, errors)


def _options(
    values: SiteValues, mode: str, prime: int, first_k: int, headroom_bits: int
) -> Sequence[tuple[TruncatedSign, FracBits, float, float]]:
    """Of one mode at one site: for every k its sign test, fraction bits, the damage to the site's outputs
    that chose them, and the error, which weighs outputs by their importance.
    """
    plain = replace(values, importance=None)
    found: list[tuple[TruncatedSign, FracBits, float, float]] = []
    for k in range(min(first_k, bit_length(prime) - 1), bit_length(prime)):
        spec = TruncatedSign(k, mode, prime)
        errors = scale_errors(plain, spec, headroom_bits)
        bits, damage = best_frac_bits(values, errors), values.mean(errors.min(1).values)
        found.append((spec, bits, damage, values.mean(squared_errors(values, bits, spec))))
    first, kept, *_ = found[0]
    lower = [TruncatedSign(k, mode, prime) for k in range(first.k)]  # type: ignore[arg-type]
    below = [
        (spec, kept, values.mean(squared_errors(plain, kept, spec)),
         values.mean(squared_errors(values, kept, spec)))
        for spec in lower
    ]  # fmt: skip
    return [*below, *found]
