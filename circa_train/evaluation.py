"""Accuracy under faults: the fault draws are repeated, and what is reported is their mean, spread and 95%
interval.

The interval is Student's t interval for the mean accuracy over draws, on the fixed images: it says how well
the draws were averaged, not how the accuracy would vary over other images. Where all n draws agree, their
spread says nothing, and the half width is (1 - 0.05^(1/n)) / images instead: if a draw that differs by one
image were likelier than 1 - 0.05^(1/n), n draws would agree with probability below 5%. Draw d of an
evaluation uses draw number ``first_draw + d`` at every site and addresses masks by the image's place in the
set, so a result depends neither on the batch size nor on what was evaluated before, and consecutive
evaluations join into one.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from scipy.special import stdtrit
from torch import Tensor, nn

from circa_train.bars import bar
from circa_train.data import Batches, ImageSet
from circa_train.nn import draw_state, evaluating, faulty_relus, load_draw_state, raise_pending, set_draw
from circa_train.training import PRECISIONS

#: Evaluation draws start here: training numbers its draws by optimiser steps from 0, and the two shall not
#: share masks.
FIRST_DRAW = 2**32

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Computing:
    """How a network computes; both change its outputs by rounding, and so a sign test here and there.

    Attributes:
        precision: ``float32``: as the weights are. ``bfloat16``: by autocast, convolutions and matrices in 16
            bits; activations then have 8 significant bits, and a sign test sees them so.
        channels_last: memory format of the images.

    Raises:
        ValueError: for a precision that is unknown.
    """

    precision: str = "float32"
    channels_last: bool = False

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision = {self.precision!r} is not one of {', '.join(PRECISIONS)}")

    def classes(self, model: nn.Module, images: Tensor) -> Tensor:
        """:func:`predict` so computed."""
        if self.channels_last:
            # contiguous() would leave images of one channel as they are, and then the whole network
            images = torch.empty_like(images, memory_format=torch.channels_last).copy_(images)
        narrow = self.precision == "bfloat16"
        with torch.autocast(images.device.type, torch.bfloat16) if narrow else nullcontext():
            return predict(model, images)


_AS_IT_IS = Computing()


@dataclass(frozen=True)
class Evaluation:
    """Accuracies of repeated fault draws on the same images.

    Attributes:
        accuracies: share of images classified right, one per draw, each in [0, 1].
        images: how many images each draw saw.
        exact: no fault was drawn, so one pass is the whole truth.
    """

    accuracies: tuple[float, ...]
    images: int
    exact: bool = False

    @property
    def mean(self) -> float:
        return statistics.fmean(self.accuracies)

    @property
    def std(self) -> float:
        """Sample standard deviation over draws; 0 for an exact network, and for a single draw, which shows
        none.
        """
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval of the mean over draws. A single draw of a faulty network says nothing: (0, 1)."""
        if self.exact:
            return self.mean, self.mean
        n = len(self.accuracies)
        if n == 1:
            return 0.0, 1.0
        half = half_width(self.accuracies)
        if half == 0.0:
            half = (1 - (1 - CONFIDENCE) ** (1 / n)) / self.images
        return max(0.0, self.mean - half), min(1.0, self.mean + half)

    @property
    def width(self) -> float:
        low, high = self.interval
        return high - low

    def joined(self, more: Evaluation) -> Evaluation:
        """This evaluation and one of later draws on the same images, as if they had been one."""
        if more.images != self.images or more.exact != self.exact:
            raise ValueError(
                f"evaluations of {self.images} and {more.images} images, exact = {self.exact} and "
                f"{more.exact}, "
                "are not parts of one"
            )
        return Evaluation(self.accuracies + more.accuracies, self.images, self.exact)


def half_width(values: Sequence[float]) -> float:
    """Half the width of Student's t interval (95%) for the mean of at least two values."""
    n = len(values)
    return float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * statistics.stdev(values) / math.sqrt(n)


def evaluate(
    model: nn.Module,
    image_set: ImageSet | Iterable[tuple[Tensor, Tensor]],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    draws: int = 5,
    batch_size: int = 256,
    until_width: float | None = None,
    max_draws: int = 50,
    first_draw: int = FIRST_DRAW,
    progress: bool = False,
    computing: Computing = _AS_IT_IS,
) -> Evaluation:
    """Top-1 accuracy of ``model`` on ``image_set``, over repeated fault draws.

    The model is left as it was: its modes, and the draws that its sites would make next.

    Args:
        model: a plain or converted network. Without faults one pass is made, whatever ``draws`` says.
        image_set: the images, normalised with ``mean`` and ``std`` (per channel). Or a ``DataLoader`` (or
            whatever gives batches of (images, labels) anew each time it is walked) of images as the network
            takes them: then without ``mean``, ``std`` and ``batch_size``, and not shuffled, since masks
            belong to places in the set.
        draws: how many draws, at least 1; with ``until_width`` the least, and then at least 2.
        batch_size: images per forward pass; the result does not depend on it.
        until_width: repeat draws until the 95% interval is no wider than this (0.002 is a fifth of a point),
            or
        max_draws: so many were made.
        first_draw: number of the first draw; other numbers give independent masks.
        progress: show a bar on a terminal, and elsewhere log a line now and then.
        computing: precision and memory format.

    Raises:
        ValueError: for an empty set or counts out of range; and what the network's sites raise.
    """
    batches, images = _batches(model, image_set, mean, std, batch_size)
    if images == 0:
        raise ValueError("the image set is empty; there is nothing to evaluate")
    check_draws(draws, until_width, max_draws)
    exact = not has_faults(model)
    least = 1 if exact else draws if until_width is None else max(2, draws)
    most = least if exact or until_width is None else max_draws
    measured = Evaluation((), images, exact)
    with (
        kept_draws(model),
        bar(least * len(batches), "evaluating", "batches", shown=progress) as shown,
    ):
        while (done := len(measured.accuracies)) < least or (
            done < most and until_width is not None and measured.width > until_width
        ):
            shown.total = max(least, done + 1) * len(batches)
            right = one_draw(model, batches, first_draw + done, shown, computing)
            measured = replace(measured, accuracies=(*measured.accuracies, float(right.double().mean())))
    return measured


def check_draws(draws: int, until_width: float | None = None, max_draws: int = 50) -> None:
    """ValueError for counts that :func:`evaluate` does not take."""
    if draws < 1:
        raise ValueError(f"draws = {draws}: at least one is needed")
    if until_width is not None and (until_width <= 0 or max_draws < max(2, draws)):
        raise ValueError(
            f"until_width = {until_width} must be positive, and max_draws = {max_draws} at least "
            f"{max(2, draws)}"
        )


class _Loaded:
    """The batches of a data loader as :class:`Batches` gives them: with the place of the first image."""

    def __init__(self, loader: Iterable[tuple[Tensor, Tensor]], device: torch.device) -> None:
        self._loader, self._device = loader, device
        self.sizes = [len(labels) for _, labels in loader]

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, int]]:
        first = 0
        for images, labels in self._loader:
            yield images.to(self._device), labels.to(self._device), first
            first += len(labels)


def _batches(
    model: nn.Module,
    image_set: ImageSet | Iterable[tuple[Tensor, Tensor]],
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    batch_size: int,
) -> tuple[Batches | _Loaded, int]:
    """Something to walk over, and how many images there are."""
    if isinstance(image_set, ImageSet):
        if mean is None or std is None:
            raise ValueError("an image set holds bytes: say how they are normalised, mean=... and std=...")
        return Batches(image_set, batch_size, mean=mean, std=std), len(image_set)
    if mean is not None or std is not None:
        raise ValueError("a data loader gives images as the network takes them: leave out mean and std")
    loaded = _Loaded(image_set, next(model.parameters(), torch.zeros(())).device)
    return loaded, sum(loaded.sizes)


def one_draw(
    model: nn.Module, batches: Batches | _Loaded, draw: int, shown: Any = None,
    computing: Computing = _AS_IT_IS,
) -> Tensor:  # fmt: skip
    """Which images a single draw classifies right: bool (images,) on the CPU, in the order of ``batches``."""
    right = []
    with evaluating(model):
        for images, labels, first in batches:
            set_draw(model, draw, first)
            right.append(computing.classes(model, images) == labels)
            if shown is not None:
                shown.update()
        # on a GPU an overflow or NaN is known only once the host waits, as the next line does
        raise_pending(model)
    return torch.cat(right).cpu()


def predict(model: nn.Module, images: Tensor) -> Tensor:
    """The class of the largest logit, int64 (N,)."""
    return class_logits(model, images).argmax(1)


def class_logits(model: nn.Module, images: Tensor) -> Tensor:
    """The network's output, refused with a ValueError unless it has the shape of logits, (images,
    classes).
    """
    logits = model(images)
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"the network returned {shape}, not logits of shape (images, classes)")
    return logits


@contextmanager
def kept_draws(model: nn.Module) -> Iterator[None]:
    """Whatever draws are set meanwhile, afterwards every site goes on where it was."""
    before = draw_state(model)
    try:
        yield
    finally:
        load_draw_state(model, before)


def has_faults(model: nn.Module) -> bool:
    """Does any site of the network draw faults as it stands, or any part of it masks for other ends
    (``draws_masks``: a rescaling)?
    """
    rescales = any(getattr(module, "draws_masks", False) for module in model.modules())
    return rescales or bool(faulty_relus(model))
