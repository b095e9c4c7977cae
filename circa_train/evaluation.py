"""Accuracy under faults: the fault draws are repeated, and what is reported is their mean, spread and 95% interval.

The interval is Student's t interval for the mean accuracy over draws, on the fixed images: it says how well the draws were
averaged, not how the accuracy would vary over other images. Draw d of an evaluation uses draw number ``first_draw + d`` at
every site and addresses masks by the image's place in the set, so a result depends neither on the batch size nor on what
was evaluated before.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.stats import t as student_t
from torch import Tensor, nn
from tqdm import tqdm

from circa_train.data import Batches, ImageSet
from circa_train.fault.spec import NoFault
from circa_train.nn.control import evaluating, set_draw, stochastic_relus

#: Evaluation draws start here: training numbers its draws by optimiser steps from 0, and the two shall not share masks.
FIRST_DRAW = 2**32

CONFIDENCE = 0.95


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
        """Sample standard deviation over draws; 0 for an exact network, and for a single draw, which shows none."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval of the mean over draws. A single draw of a faulty network says nothing: (0, 1)."""
        if self.exact:
            return self.mean, self.mean
        n = len(self.accuracies)
        if n == 1:
            return 0.0, 1.0
        half = float(student_t.ppf((1 + CONFIDENCE) / 2, n - 1)) * self.std / math.sqrt(n)
        return max(0.0, self.mean - half), min(1.0, self.mean + half)

    @property
    def width(self) -> float:
        low, high = self.interval
        return high - low


def evaluate(
    model: nn.Module,
    image_set: ImageSet,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    draws: int = 5,
    batch_size: int = 256,
    until_width: float | None = None,
    max_draws: int = 50,
    first_draw: int = FIRST_DRAW,
    progress: bool = False,
) -> Evaluation:
    """Top-1 accuracy of ``model`` on ``image_set``, over repeated fault draws. The model's modes are left as they were.

    Args:
        model: a plain or converted network. Without faults one pass is made, whatever ``draws`` says.
        image_set: the images, normalised with ``mean`` and ``std`` (per channel).
        draws: how many draws, at least 1; with ``until_width`` the least, and then at least 2.
        batch_size: images per forward pass; the result does not depend on it.
        until_width: repeat draws until the 95% interval is no wider than this (0.002 is a fifth of a point), or
        max_draws: so many were made.
        first_draw: number of the first draw; other numbers give independent masks.
        progress: show a bar on the terminal.

    Raises:
        ValueError: for an empty set or counts out of range; and what the network's sites raise.
    """
    if len(image_set) == 0:
        raise ValueError("the image set is empty; there is nothing to evaluate")
    if draws < 1:
        raise ValueError(f"draws = {draws}: at least one is needed")
    if until_width is not None and (until_width <= 0 or max_draws < max(2, draws)):
        raise ValueError(
            f"until_width = {until_width} must be positive, and max_draws = {max_draws} at least {max(2, draws)}"
        )
    batches = Batches(image_set, batch_size, mean=mean, std=std)
    exact = not has_faults(model)
    least = 1 if exact else draws if until_width is None else max(2, draws)
    most = least if exact or until_width is None else max_draws
    accuracies: list[float] = []
    with tqdm(total=least * len(batches), desc="evaluating", unit="batch", disable=not progress, leave=False) as bar:
        while len(accuracies) < least or (
            len(accuracies) < most and until_width is not None and Evaluation(tuple(accuracies), 1).width > until_width
        ):
            if len(accuracies) >= least:
                bar.total += len(batches)
            right = one_draw(model, batches, first_draw + len(accuracies), bar)
            accuracies.append(float(right.double().mean()))
    return Evaluation(tuple(accuracies), len(image_set), exact)


def one_draw(model: nn.Module, batches: Batches, draw: int, bar: tqdm | None = None) -> Tensor:
    """Which images a single draw classifies right: bool (images,) on the CPU, in the order of ``batches``."""
    right = []
    with evaluating(model):
        for images, labels, first in batches:
            set_draw(model, draw, first)
            right.append(predict(model, images) == labels)
            if bar is not None:
                bar.update()
    return torch.cat(right).cpu()


def predict(model: nn.Module, images: Tensor) -> Tensor:
    """The class of the largest logit, int64 (N,)."""
    logits = model(images)
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        raise ValueError(f"the network returned {type(logits).__name__}, not logits of shape (images, classes)")
    return logits.argmax(1)


def has_faults(model: nn.Module) -> bool:
    """Does any site of the network draw faults as it stands?"""
    return any(relu.faults_enabled and not isinstance(relu.spec, NoFault) for relu in stochastic_relus(model).values())
