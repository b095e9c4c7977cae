"""Small networks written the way people write them, each awkward in its own way; shared by tests of this
folder."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations


class Gate(nn.Module):
    """A functional ReLU in a module without submodules."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x)


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            [nn.Sequential(conv(), Gate()), nn.ModuleDict({"a": conv(), "b": Gate()})]
        )
        self.wide = nn.Sequential(OrderedDict(inner=nn.Sequential(OrderedDict(deep=nn.Sequential(Gate())))))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages[0](x)
        x = self.stages[1]["b"](self.stages[1]["a"](x))
        return self.wide(x - 0.1)


class Shared(nn.Module):
    """One ReLU, and one block, called more than once."""

    def __init__(self) -> None:
        super().__init__()
        self.act, self.block = nn.ReLU(inplace=True), nn.Sequential(conv(), Gate())

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.block(self.block(x)) - 0.1) + self.act(self.block(x) - 0.2)


class Names(nn.Module):
    """Everything that a conversion would like to call something is taken."""

    def __init__(self) -> None:
        super().__init__()
        self.relu, self.relu_call = conv(), nn.Parameter(torch.ones(1))
        self.register_buffer("relu_call_2", torch.ones(1))
        self.training_flag, self.add_module = nn.BatchNorm2d(3), self.add_module
        self.add_module("relu#2", conv())

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.relu(x)) * self.relu_call
        x = F.dropout(self.training_flag(x), 0.3, self.training) * self.relu_call_2
        return torch.relu(self._modules["relu#2"](x))


class Remembers(nn.Module):
    """Keeps feature maps, counts, and appends, in attributes, containers and an object of its own."""

    class Meter:
        def __init__(self) -> None:
            self.values: list[Any] = []

    def __init__(self) -> None:
        super().__init__()
        self.body, self.calls, self.feature = conv(), 0, None
        self.kept: list[Any] = []
        self.by_name: dict[str, Any] = {"deep": {}}
        self.meter = Remembers.Meter()

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.feature = y = F.relu(self.body(x))
        self.kept.append(y)
        self.by_name["deep"]["y"] = y
        self.meter.values.append(y.mean())
        self.late = y
        return y


class Counts(nn.Module):
    """Adds to a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = conv()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add_(1)
        return torch.relu(self.body(x)) / (1 + 0 * self.seen)


class Makes(nn.Module):
    """Makes tensors and layers in the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.scale = conv(), torch.full((1,), 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.ReLU(inplace=True)(self.body(x) + torch.ones(1)) * self.scale
        return nn.Sequential(nn.Identity(), nn.ReLU())(x - torch.arange(8.0) / 4)


class Hooked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block, self.act = nn.Sequential(conv(), nn.ReLU(), conv()), nn.ReLU()
        self.block.register_forward_pre_hook(lambda module, args: (args[0] * 2,))
        self.block.register_forward_hook(lambda module, args, y: y + args[0])
        self.act.register_forward_hook(lambda module, args, y: y.clamp(max=0.3))
        self.register_forward_pre_hook(lambda module, args: (args[0] - 0.5,))
        self.register_forward_hook(lambda module, args, y: {"out": y})

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.block(x))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(), conv()
        self.b.weight = self.a.weight
        self.again = self.a
        self.plain_list = [self.a, nn.ReLU()]

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.plain_list:
            x = layer(x)
        return F.relu(self.again(self.b(x)))


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.norm, self.act = conv(), nn.BatchNorm2d(3), nn.ReLU(True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.body(x))
        self.act(y)
        z = y - 0.1
        F.relu_(z)
        return F.relu(z + y, inplace=True)


class Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        return torch.round(z * 16) / 16

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return grad


class StraightThrough(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = conv()

    def forward(self, x: Tensor, quantize: bool = True, *, mask: Tensor | None = None) -> Tensor:
        x = self.body(x)
        return torch.relu(Rounded.apply(x) if quantize else x)


def conv() -> nn.Conv2d:
    return nn.Conv2d(3, 3, 3, padding=1)


def weighted(wrap: Callable[[nn.Module], nn.Module]) -> nn.Module:
    return nn.Sequential(wrap(conv()), Gate(), conv(), nn.ReLU())


def scripted() -> nn.Module:
    return nn.Sequential(torch.jit.script(nn.Sequential(conv(), nn.MaxPool2d(3, 1, 1))), Gate())


ZOO: dict[str, Callable[[], nn.Module]] = {
    "gate": lambda: nn.Sequential(conv(), Gate()),
    "root gate": Gate,
    "nested": Nested,
    "shared": Shared,
    "names": Names,
    "remembers": Remembers,
    "counts": Counts,
    "makes": Makes,
    "hooked": Hooked,
    "tied": Tied,
    "in place": InPlace,
    "straight through": StraightThrough,
    "weight norm": lambda: weighted(parametrizations.weight_norm),
    "spectral norm": lambda: weighted(parametrizations.spectral_norm),
    "scripted": scripted,
}
