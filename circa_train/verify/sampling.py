"""What is verified: activations that enter the sites of a network, and the masks that the simulator drew for
them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from circa_train.cost import why_no_circuit
from circa_train.data import Batches, ImageSet
from circa_train.evaluation import FIRST_DRAW
from circa_train.fault import SignTest, TruncatedSign
from circa_train.fixed_point import to_fixed
from circa_train.nn import StochasticReLU, evaluating, set_draw, stochastic_relus

#: Samples come from at least this many images: one image alone may leave most channels of a site silent.
_LEAST_IMAGES = 8

@dataclass(frozen=True, eq=False)
class SiteSample:
    """Sign tests of one site, as the simulator made them.

    Attributes:
        site: its name.
        spec: the sign test.
        elements: int64 (n,), the elements' numbers within the draw, by which the masks are addressed.
        x: int64 (n,), centred values.
        t: int64 (n,), the masks.
        k: int64 (n,), low bits dropped, which may differ by channel; 0 for a test that drops none.
        applied: int8 (n,), what the network's own forward let through: 1 its input, 0 zero, -1 something
            else.
    """

    site: str
    spec: SignTest
    elements: NDArray[np.int64]
    x: NDArray[np.int64]
    t: NDArray[np.int64]
    k: NDArray[np.int64]
    applied: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.x)


def choose_sites(
    specs: Mapping[str, SignTest], wanted: str | int | Sequence[str]
) -> tuple[list[str], dict[str, str]]:
    """The sites to verify, and the reason for each that is asked for but cannot be.

    Args:
        specs: the sign test of every site, in the order of execution.
        wanted: ``all``, a name, several names, or how many of the sites that can be verified, spread evenly
            over the network.

    Raises:
        ValueError: for a name that no site has, a count below 1, or if no wanted site can be verified.
    """
    verifiable = [name for name, spec in specs.items() if why_no_circuit(spec) is None]
    if isinstance(wanted, str):
        names = list(specs) if wanted == "all" else [wanted]
    elif isinstance(wanted, int):
        if isinstance(wanted, bool) or wanted < 1:
            raise ValueError(f"sites = {wanted}: give all, names, or how many sites, at least 1")
        names = _spread(verifiable, wanted) or list(specs)
    else:
        names = list(wanted)
    unknown = [name for name in names if name not in specs]
    if unknown or not names:
        raise ValueError(
            f"no ReLU site is called {', '.join(unknown) or '(none given)'}; the sites are {', '.join(specs)}"
        )
    left_out = {name: reason for name in names if (reason := why_no_circuit(specs[name])) is not None}
    chosen = [name for name in names if name not in left_out]
    if not chosen:
        raise ValueError(
            f"nothing can be verified: {by_reason(left_out)}. Give a truncated sign, e.g. fault=poszero "
            "fault.k=12"
        )
    return chosen, left_out


def by_reason(left_out: Mapping[str, str]) -> str:
    """The sites that cannot be verified, in words, those of one reason together."""
    sites: dict[str, list[str]] = {}
    for site, reason in left_out.items():
        sites.setdefault(reason, []).append(site)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in sites.items())


def collect_samples(
    network: nn.Module,
    image_set: ImageSet,
    sites: Sequence[str],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    relus: Mapping[str, int],
    samples: int = 4096,
    batch_size: int = 16,
    draw: int = FIRST_DRAW,
    seed: int = 0,
) -> list[SiteSample]:
    """Run images through a converted network and keep, at each of ``sites``, ``samples`` of the sign tests it
    made.

    The images are the first of the set, as many as it takes (and there are); the elements are drawn among all
    of theirs without replacement. The masks are those that ``evaluate`` draws for the same images in its
    first draw.

    Args:
        network: converted, see :func:`circa_train.nn.convert.with_stochastic_relus`.
        image_set, mean, std: images, and their normalisation per channel.
        sites: names of sites whose sign test has a circuit.
        relus: ReLUs per image of each of them.
        samples: activations per site; fewer only if the set has no more.
        batch_size: images per forward pass.
        draw: number of the draw.
        seed: which elements.

    Raises:
        ValueError: if ``samples`` is not positive, or the set is empty; and what the network's sites raise.
    """
    images = max(_LEAST_IMAGES, *(math.ceil(samples / relus[name]) for name in sites))
    images = min(images, len(image_set))
    batches = Batches(image_set.subset(torch.arange(images)), batch_size, mean=mean, std=std)
    totals = {name: images * relus[name] for name in sites}
    with sampled(network, totals, samples, seed) as taps, evaluating(network):
        for batch, _, first in batches:
            set_draw(network, draw, first)
            network(batch)
    return [tap.sample for tap in taps]


@contextmanager
def sampled(
    network: nn.Module, totals: Mapping[str, int], samples: int, seed: int = 0
) -> Iterator[list[Tap]]:
    """While open, a tap at every site that ``totals`` names keeps up to ``samples`` of the sign tests made
    there.

    Args:
        network: with stochastic sites, on real numbers or on integers.
        totals: how many sign tests each site will make in all.
        samples, seed: how many to keep, and which.

    Raises:
        ValueError: if there is nothing to keep.
    """
    if samples < 1 or min(totals.values()) < 1:
        raise ValueError(f"samples = {samples} of {min(totals.values())} sign tests: nothing to verify")
    modules = stochastic_relus(network)
    taps = [Tap(modules[name], samples, total, seed) for name, total in totals.items()]
    handles = [modules[name].register_forward_hook(tap) for name, tap in zip(totals, taps, strict=True)]
    try:
        yield taps
    finally:
        for handle in handles:
            handle.remove()


def select(
    site: str, spec: SignTest, x: Tensor, t: Tensor, applied: Tensor, elements: Tensor | None = None
) -> SiteSample:
    """The sign tests of a layer, or of some of its elements, from tensors that are there already.

    Args:
        site, spec: which.
        x, t: int64 (N, C, ...), centred values and masks in [0, p).
        applied: integer or bool, shaped like ``x``; see :class:`SiteSample`.
        elements: int64 (n,), row-major indices into them; None for all.
    """
    elements = torch.arange(x.numel()) if elements is None else elements
    k = _truncations(spec, x)
    chosen = [tensor.reshape(-1)[elements.to(x.device)] for tensor in (x, t, k, applied.to(torch.int8))]
    return SiteSample(site, spec, elements.cpu().numpy(), *(tensor.cpu().numpy() for tensor in chosen))


def let_through(z: Tensor, y: Tensor) -> Tensor:
    """What a site's forward did, int8 like ``z``: 1 where it let its input through, 0 where not, -1 if y is
    neither.

    A closed gate writes +0.0 and an open one never does, so even at z = 0 the gate can be told from the bits
    of y.
    """
    opened = (y != 0) | torch.signbit(y)
    return torch.where(y == torch.where(opened, z, 0), opened, -1).to(torch.int8)


class Tap:
    """A forward hook that keeps chosen elements of what passes through one site; :attr:`sample` joins
    them.
    """

    def __init__(self, relu: StochasticReLU, samples: int, total: int, seed: int) -> None:
        generator = np.random.default_rng([seed, relu.site])
        chosen = generator.choice(total, size=min(samples, total), replace=False)
        self._chosen = torch.from_numpy(np.sort(chosen))
        self._parts: list[SiteSample] = []

    def __call__(self, relu: StochasticReLU, inputs: tuple[Any, ...], y: Tensor) -> None:
        (z,), spec = inputs, relu.spec
        next_draw, first_image = relu.address.tolist()
        first = first_image * z[0].numel()
        elements = self._chosen[(self._chosen >= first) & (self._chosen < first + z.numel())] - first
        elements = elements.to(z.device)
        plane, channels = math.prod(z.shape[2:]), z.shape[1] if z.dim() > 1 else 1
        z, y, k = (tensor.reshape(-1)[elements] for tensor in (z, y, _truncations(spec, z)))
        t = spec.masks_at(elements + first, seed=relu.seed, site=relu.site, draw=next_draw - 1)
        assert t is not None  # an exact test has no circuit, and is not sampled
        applied = let_through(z, y)
        if z.is_floating_point():
            x, _ = to_fixed(
                z, relu.frac_bits, spec.prime, relu.settings.overflow, elements // plane % channels
            )
        else:  # an integer zero looks the same behind either gate; its shares tie, so the law is the mode's
            x, applied = z, torch.where(z == 0, spec.gate(z, t).to(torch.int8), applied)
        arrays = [tensor.cpu().numpy() for tensor in (elements + first, x, t, k, applied.to(torch.int8))]
        self._parts.append(SiteSample(relu.name, spec, *arrays))

    @property
    def sample(self) -> SiteSample:
        """All that was kept."""
        names = ("elements", "x", "t", "k", "applied")
        arrays = {name: np.concatenate([getattr(part, name) for part in self._parts]) for name in names}
        return SiteSample(self._parts[0].site, self._parts[0].spec, **arrays)


def _truncations(spec: SignTest, like: Tensor) -> Tensor:
    """k of every element, int64, as a view that takes no memory."""
    if not isinstance(spec, TruncatedSign):
        return torch.zeros((), dtype=torch.int64, device=like.device).expand(like.shape)
    return torch.as_tensor(spec.shift(like.shape, like.device), device=like.device).expand(like.shape)


def _spread(names: Sequence[str], count: int) -> list[str]:
    """``count`` of ``names``, first and last among them, evenly spaced; the middle one for 1."""
    if count >= len(names):
        return list(names)
    if count == 1:
        return [names[len(names) // 2]]
    return [names[round(i * (len(names) - 1) / (count - 1))] for i in range(count)]
