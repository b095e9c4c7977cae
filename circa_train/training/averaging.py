"""The exponential moving average of a network's weights."""

from __future__ import annotations

import copy

import torch
from torch import nn


class MovingAverage:
    """A copy of the network whose weights follow the average: w <- d w + (1 - d) w_now after every step.

    d = min(decay, (1 + n) / (10 + n)) at the n-th update (n = 0, 1, ...), so that the first steps do not drag
    the random initialisation along. BatchNorm's statistics are averaged as weights are; integer buffers are
    copied.

    Attributes:
        model: the averaged network.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).eval()
        self.model.requires_grad_(False)
        # Not by state_dict, which lists tied weights twice.
        averages, currents = ([*network.parameters(), *network.buffers()] for network in (self.model, model))
        pairs = list(zip(averages, currents, strict=True))
        self._floating = [(average, current) for average, current in pairs if average.is_floating_point()]
        self._others = [(average, current) for average, current in pairs if not average.is_floating_point()]

    @torch.no_grad()
    def update(self, updates_before: int) -> None:
        """Take in the network's present weights, after ``updates_before`` earlier calls."""
        decay = min(self.decay, (1 + updates_before) / (10 + updates_before))
        # One multi-tensor kernel per call where one exists: a hundred small launches would show in a step's
        # time.
        averages, currents = zip(*self._floating, strict=True)
        torch._foreach_lerp_(averages, currents, 1 - decay)
        for average, current in self._others:
            average.copy_(current)
