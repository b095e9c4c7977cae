"""What enters the sites on calibration images, and how much the answers depend on what leaves them.

The second is the *importance* of a value z, whose activation is y: the square of g = d log p(class) / dy, for
a class drawn from the network's own answer. An error e at y, small and independent of others, moves the
answer by the divergence KL = g^2 e^2 / 2 on average over the classes (the Fisher information: the gradient of
KL at no error is 0, and its curvature is the mean of g^2). So errors at different values, channels and sites
are weighed in one unit. One class for each image, from a generator of its own: the same on every run.

Where single elements of a map have lost their ReLU, the site sees a row of elements without channels. Those
that are of one channel of the map are taken together, as they are in the whole network: what one element did
on a few hundred images says little of what it will do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from circa_train.fixed_point import check_finite, largest_frac_bits
from circa_train.nn.control import evaluating, stochastic_relus, without_faults
from circa_train.nn.convert import as_stochastic
from circa_train.nn.tracing.leaves import refuse_unfinished
from circa_train.nn.tracing.preserving import unchanged

#: Values that are kept of each channel and batch. Errors of neighbouring fraction bits differ by factors, so
#: a thousand values of a channel decide between them.
_KEPT = 256

#: A channel counts as if it reached this share of its site at least.
_LEAST_REACH = 2.0**-8

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
        importance: float64 (channels, values), of each value (see the module's page; the extremes count as
            their channel does on average); None where all count alike.
    """

    values: Tensor
    reach: Tensor
    channel_of: Tensor | None = None
    importance: Tensor | None = None

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
    model: nn.Module,
    batches: Iterable[Tensor | tuple[Tensor, ...] | list[Tensor]],
    *,
    importance: bool = False,
) -> dict[str, SiteValues]:
    """The pre-activations at every site, in exact forward passes in evaluation mode; the model is left as it
    was.

    Args:
        model: a plain or converted network.
        batches: inputs as the network takes them, or tuples that start with them.
        importance: record how much the answers depend on each value, too: a backward pass for each batch.

    Raises:
        ValueError: if there is no batch, or an activation is not finite or has no channels; with
            ``importance``, if no gradient comes back to a site.
    """
    network = as_stochastic(model)
    refuse_unfinished(network)
    seen = {name: _Seen(name, _channel_of(network, name)) for name in stochastic_relus(network)}
    run = partial(_backwards, network, torch.Generator().manual_seed(0)) if importance else network
    with (
        unchanged(model), _recording(network, seen, importance), evaluating(network),
        without_faults(network),
    ):  # fmt: skip
        for batch in batches:
            run(batch[0] if isinstance(batch, (tuple, list)) else batch)
    if not any(each.values for each in seen.values()):
        raise ValueError("batches is empty; calibration needs at least one batch of inputs")
    return {name: each.together() for name, each in seen.items() if each.values}


class _Seen:
    """What a site has seen so far."""

    def __init__(self, name: str, channel_of: Tensor | None) -> None:
        self.name, self.channel_of = name, channel_of
        self.values: list[Tensor] = []
        self.importance: list[Tensor] = []
        self.low = self.high = torch.zeros(0)

    def record(self, z: Tensor) -> None:
        if z.dim() < 2:
            raise ValueError(f"site {self.name}: an activation of shape {tuple(z.shape)} has no channels")
        try:
            check_finite(z)
        except ValueError as error:
            raise ValueError(f"site {self.name}: {error}") from error
        rows = z.transpose(0, 1).flatten(1)
        low, high = (extreme.double() for extreme in torch.aminmax(rows, dim=1))
        if self.channel_of is not None:
            low, high = (_extreme(*each, self.channel_of) for each in ((low, "amin"), (high, "amax")))
        first = not self.values
        self.low = low if first else torch.minimum(self.low, low)
        self.high = high if first else torch.maximum(self.high, high)
        self.values.append(self._sample(rows))

    def weigh(self, place: int, gradient: Tensor) -> None:
        """The gradient at the activations of call number ``place``."""
        self.importance[place] = self._sample(gradient.transpose(0, 1).flatten(1)) ** 2

    def _sample(self, rows: Tensor) -> Tensor:
        if self.channel_of is not None:
            return _sample(rows, self.channel_of).double()
        return rows[:, :: rows.shape[1] // _KEPT | 1].double()  # an odd stride meets every place in turn

    def together(self) -> SiteValues:
        ends = torch.stack((self.low, self.high))
        importance = None
        if self.importance:
            found = torch.cat(self.importance, 1)
            importance = torch.cat([found, found.mean(1, keepdim=True).expand(-1, 2)], 1)
        return SiteValues(
            torch.cat([*self.values, ends.T], 1), ends.abs().amax(0), self.channel_of, importance
        )


@contextmanager
def _recording(network: nn.Module, seen: dict[str, _Seen], importance: bool) -> Iterator[None]:
    """While open, what passes the sites is recorded."""

    def at(site: _Seen) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], y: Tensor) -> None:
            site.record(inputs[0].detach())
            if importance:
                if not y.requires_grad:
                    raise ValueError(
                        f"site {site.name}: no gradient comes back from the answers, so nobody knows what an "
                        "error there does; does the network compute it under torch.no_grad?"
                    )
                site.importance.append(torch.zeros_like(site.values[-1]))  # stays 0 if nobody uses y
                y.register_hook(partial(site.weigh, len(site.importance) - 1))

        return hook

    relus = stochastic_relus(network)
    handles = [relu.register_forward_hook(at(seen[name])) for name, relu in relus.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _backwards(network: nn.Module, generator: torch.Generator, inputs: Tensor) -> None:
    """The gradient of log p of one class for each image, drawn from the answer; parameters get none."""
    with torch.enable_grad():
        inputs = inputs.detach().requires_grad_()
        answers = network(inputs).log_softmax(1)
        drawn = torch.multinomial(answers.detach().exp().cpu(), 1, generator=generator)
        total = answers.gather(1, drawn.to(answers.device)).sum()
        torch.autograd.grad(total, inputs)


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
