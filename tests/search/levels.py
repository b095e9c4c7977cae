"""A small network whose best allocation is planted, its images, and settings that make a search quick."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from circa_train import (
    NoFault,
    TruncatedSign,
    with_stochastic_relus,
)
from circa_train.data import DataSplits, ImageSet
from circa_train.search import (
    SearchSettings,
)

POSZERO = TruncatedSign(0)
SETTINGS = SearchSettings(budget=0.05, draws=3, max_draws=12, trials=4, images=60, margin=1.0)
PLAIN = replace(SETTINGS, joint=False, margin=0.0)


class Levels(nn.Module):
    """Four classes, told by which of four inputs is large; two more sites that matter hardly and not at all.

    The classes' pre-activations are 0.8 at frac_bits 16, so 2^16 is where truncation zeroes them: k = 15 is
    harmless, and at k = 18 nearly every answer is lost. ``faint`` adds a hundredth of a noise, ``dead`` adds
    nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.main, self.faint, self.dead = nn.ReLU(), nn.ReLU(), nn.ReLU()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1) * self.scale
        classes = self.main(x[:, :4])
        side = self.faint(x[:, 4:]).repeat(1, 8)
        return classes + 0.01 * side[:, :4] + 0.0 * self.dead(side - 0.2)[:, :4]


class OneSite(Levels):
    """The same without the sites that could be treated differently."""

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x.flatten(1)[:, :4] * self.scale)


def level_images(count: int, seed: int) -> ImageSet:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (count,), generator=generator)
    small = torch.randint(0, 40, (count, 4), generator=generator)
    pixels = torch.cat(
        [F.one_hot(labels, 4) * 164 + small, torch.randint(0, 255, (count, 12), generator=generator)], 1
    )
    return ImageSet(pixels.to(torch.uint8).reshape(count, 1, 4, 4), labels)


def make_splits(validation: int = 100, test: int = 100) -> DataSplits:
    train, held_out, final = level_images(4, 0), level_images(validation, 1), level_images(test, 2)
    return DataSplits("levels", train, held_out, final, ("a", "b", "c", "d"), mean=(0.0,), std=(1.0,))


def converted(model: nn.Module | None = None, seed: int = 3) -> nn.Module:
    return with_stochastic_relus(model or Levels(), NoFault(), frac_bits=16, seed=seed).eval()
