"""Small networks with every way of calling a ReLU, shared by the tests of this folder."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Everything(nn.Module):
    """One module called twice, functional, method and in-place ReLUs, dropout by flag, own tensors, an unused
    layer.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((1,), 1.5))
        self.register_buffer("shift", torch.full((1,), 0.1))
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.block = Block()
        self.unused = nn.Linear(2, 2)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor, scaled: bool = True) -> Tensor:
        x = self.relu(self.bn(self.conv(x)))
        if scaled:
            x = x * self.scale - self.shift
        x = self.block(F.relu(x) - 0.2)
        x = torch.relu(self.relu(x - 0.1) - 0.05)
        x = F.dropout(x, 0.5, training=self.training).mean((2, 3)) - 0.1
        x = x.relu() - 0.01
        F.relu_(x)
        return self.fc(x)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + x, inplace=True)


EVERYTHING_SITES = ["relu", "relu#2", "block.body.1", "block.relu", "relu#3", "relu#4", "relu#5", "relu#6"]
