"""What every search has in common: how it begins, and how it ends.

It begins with the activations of some training images at every site, and with what may stand there
(:mod:`circa_train.search.choices`). It ends with an allocation that was measured on validation and on test
images. What lies between, how the allocation is chosen, is :mod:`circa_train.search.engine` for an accuracy
budget and :mod:`circa_train.search.by_gates` for a number of AND gates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from circa_train.bars import bar
from circa_train.data import Batches, DataSplits, ImageSet
from circa_train.fault import TruncatedSign
from circa_train.fixed_point import FracBits
from circa_train.nn import described_frac_bits, relu_sites, set_frac_bits, set_specs, stochastic_relus
from circa_train.nn.site_values import SiteValues, site_values
from circa_train.search.choices import Choices, as_it_is, by_the_law
from circa_train.search.judging import Judge, Judgement
from circa_train.search.settings import SearchSettings
from circa_train.search.store import Store

#: Images per batch of the recorded pass.
_RECORDED = 64


@dataclass(frozen=True, kw_only=True)
class Allocated:
    """The answer of a search, whatever was asked.

    Attributes:
        sites: (name, ReLUs per image) in the order of execution.
        spec: mode and prime of the network as it is.
        frac_bits: fraction bits of the network as it is.
        chosen: the answer, on validation images, and
        chosen_test: on test images.
        same_k: one k for all sites, to compare with: it answers the same question.
        faults: by the law, faults to expect per activation of each site under ``chosen``.
        candidates: how many allocations were considered, and
        runs: how many of them took network runs.
        warnings: what may make the answer worth less than it seems.
    """

    sites: tuple[tuple[str, int], ...]
    spec: TruncatedSign
    frac_bits: int | dict[str, FracBits]
    chosen: Judgement
    chosen_test: Judgement
    same_k: int
    faults: tuple[float, ...]
    candidates: int
    runs: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Frame:
    """A search that has begun.

    Attributes:
        network: a converted network, whose sign tests and fraction bits are set as needed.
        splits, spec, settings, store, report, progress: as :func:`begun` was given them.
        sites: (name, ReLUs per image) in the order of execution.
        frac_bits: those that the network came with.
        seen: the recorded activations by site, and what each counts.
    """

    network: nn.Module
    splits: DataSplits
    spec: TruncatedSign
    settings: SearchSettings
    store: Store
    report: Callable[[str], None]
    progress: bool
    sites: tuple[tuple[str, int], ...]
    frac_bits: int | dict[str, FracBits]
    seen: dict[str, SiteValues]

    def as_it_is(self) -> Choices:
        """Every k in the one mode and at the fraction bits that the network came with."""
        return as_it_is(self.network, self.seen, self.spec)

    def by_the_law(self, first_k: int) -> Choices:
        """The better mode and the best scales for every k of every site, those of ``first_k`` below it."""
        with bar(len(self.seen), "modes and scales", "sites", shown=self.progress) as done:
            return by_the_law(
                self.seen, self.spec, first_k, self.settings.headroom_bits, lambda: done.update()
            )

    def judge(self, images: ImageSet, split: str, choices: Choices, *, others: int) -> Judge:
        """Judges of allocations on ``images``; see :class:`Judge`."""
        return Judge(
            self.network, images, split, choices, others=others, mean=self.splits.mean, std=self.splits.std,
            settings=self.settings, store=self.store, report=self.report, progress=self.progress,
        )  # fmt: skip


@contextmanager
def begun(
    network: nn.Module,
    splits: DataSplits,
    spec: TruncatedSign,
    settings: SearchSettings,
    *,
    store_path: Path | None,
    identity: str,
    report: Callable[[str], None],
    progress: bool,
) -> Iterator[Frame]:
    """Check and record; at the end the network has its sign tests and fraction bits back.

    Args are those of :func:`~circa_train.search.engine.search_truncation`.

    Raises:
        ValueError: if the network has no stochastic site, or the splits are empty.
    """
    relus = stochastic_relus(network)
    if not relus:
        raise ValueError("the network has no stochastic ReLU; convert it with with_stochastic_relus first")
    if not len(splits.validation) or not len(splits.test):
        raise ValueError(
            f"{splits.name} has {len(splits.validation)} validation and {len(splits.test)} test images; "
            "the search needs both (data.validation_fraction sets some of the training images aside)"
        )
    specs = {name: relu.spec for name, relu in relus.items()}
    frac_bits = {name: relu.frac_bits for name, relu in relus.items()}
    store = Store(store_path, identity)
    try:
        yield Frame(
            network, splits, spec, settings, store, report, progress,
            tuple(relu_sites(network, (splits.channels, splits.image_size, splits.image_size))),
            described_frac_bits(network), _recorded(network, splits, settings.images, progress),
        )  # fmt: skip
    finally:
        set_frac_bits(network, frac_bits)
        set_specs(network, specs)


def _recorded(
    network: nn.Module, splits: DataSplits, count: int, progress: bool
) -> dict[str, SiteValues]:
    """The activations of ``count`` training images at every site, and what each counts."""
    images = splits.train.subset(torch.arange(min(count, len(splits.train))))
    batches = Batches(images, _RECORDED, mean=splits.mean, std=splits.std)
    with bar(len(batches), "recording activations", "batches", shown=progress) as done:

        def told() -> Iterator[Tensor]:
            for batch in batches:
                yield batch[0]
                done.update()

        return site_values(network, told(), importance=True)
