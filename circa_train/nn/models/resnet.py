"""ResNets for small images: one class for the CIFAR family (8, 20, 32, 44, 56) and for ResNet-18.

Both are a 3x3 stem at full resolution, stages of basic blocks (two 3x3 convolutions, BatchNorm after each)
that halve the map and widen it, global average pooling and one linear layer (He et al., CVPR 2016, sections
3.3 and 4.2). They differ in numbers only:

    CIFAR family, depth 6n + 2    n blocks in each of 3 stages, widths 16, 32, 64     shortcut A by default
    ResNet-18 on small images     2 blocks in each of 4 stages, widths 64 ... 512   shortcut B, no max pooling

A shortcut that changes the shape is option A (every other pixel, new channels zero: no parameter, and free on
secret shares) or option B (a 1x1 convolution and BatchNorm).

Every nn.ReLU is a module of its own, called once per forward and never in place: a *site* has one name, one
count and one fault specification. Parameter names are those of the common public CIFAR checkpoints:
``conv1``, ``bn1``, ``layer1.0.conv1``, ``layer1.0.shortcut.0``, ``linear``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CIFAR_DEPTHS = (8, 20, 32, 44, 56)
SHORTCUTS = ("A", "B")


class PadShortcut(nn.Module):
    """Option A: keep every ``stride``-th pixel and put zero channels on both sides of the old ones.

    (N, C, H, W) -> (N, C + before + after, ceil(H / stride), ceil(W / stride)). Where the widths differ by an
    odd number the extra channel comes last; the public checkpoints only ever pad evenly.
    """

    def __init__(self, in_width: int, out_width: int, stride: int) -> None:
        super().__init__()
        if out_width < in_width:
            raise ValueError(f"shortcut A cannot narrow {in_width} channels to {out_width}; use shortcut B")
        self.stride = stride
        self.before = (out_width - in_width) // 2
        self.after = out_width - in_width - self.before

    def forward(self, x: Tensor) -> Tensor:
        """The subsampled, widened copy of ``x``."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))

    def extra_repr(self) -> str:
        """Shown by ``print(model)``."""
        return f"stride={self.stride}, zero channels {self.before} + {self.after}"


class BasicBlock(nn.Module):
    """y = ReLU(BN(conv(ReLU(BN(conv(x))))) + shortcut(x)); the sites are ``relu1`` and ``relu2``."""

    def __init__(self, in_width: int, width: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module
        if stride == 1 and in_width == width:
            self.shortcut = nn.Identity()
        elif shortcut == "A":
            self.shortcut = PadShortcut(in_width, width, stride)
        else:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_width, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width)
            )
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_width, H, W) -> (N, width, ceil(H / stride), ceil(W / stride))."""
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out)) + self.shortcut(x)
        return self.relu2(out)


class ResNet(nn.Module):
    """A stem, ``len(blocks)`` stages of basic blocks, global average pooling, a linear layer.

    Args:
        blocks: basic blocks per stage; every stage after the first begins with stride 2.
        widths: channels per stage; the stem has ``widths[0]``.
        num_classes: outputs.
        in_channels: channels of the input images (any image size works).
        shortcut: "A" or "B", where a block changes the shape.

    Convolutions start Kaiming-normal for ReLU, from torch's generator. Blocks do not start as their shortcuts
    (gamma 0 in the last BatchNorm): that suits long schedules, but in the few epochs of a quick run such a
    network hardly learns.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        widths: Sequence[int],
        *,
        num_classes: int,
        in_channels: int = 3,
        shortcut: str,
    ) -> None:
        super().__init__()
        if shortcut not in SHORTCUTS:
            raise ValueError(
                f"shortcut must be 'A' (padding, no parameters) or 'B' (1x1 convolution), not {shortcut!r}"
            )
        if not blocks or len(blocks) != len(widths):
            raise ValueError(
                f"blocks {tuple(blocks)} and widths {tuple(widths)} must name the same stages, at least one"
            )
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU()
        self.stage_names = tuple(f"layer{index + 1}" for index in range(len(blocks)))
        in_width = widths[0]
        for index, (name, count, width) in enumerate(zip(self.stage_names, blocks, widths, strict=True)):
            stage = nn.Sequential()
            for block in range(count):
                stride = 2 if block == 0 and index > 0 else 1
                stage.append(BasicBlock(in_width, width, stride, shortcut))
                in_width = width
            self.add_module(name, stage)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(in_width, num_classes)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> logits (N, num_classes)."""
        x = self.relu(self.bn1(self.conv1(x)))
        for name in self.stage_names:
            x = self.get_submodule(name)(x)
        return self.linear(torch.flatten(self.pool(x), 1))

    def relu_stages(self) -> dict[str, tuple[str, ...]]:
        """The ReLU sites by stage, in the order they run: {"stem": ("relu",), "layer1": ("layer1.0.relu1",
        ...)}.
        """
        stages: dict[str, tuple[str, ...]] = {"stem": ("relu",)}
        for name in self.stage_names:
            count = len(list(self.get_submodule(name).children()))
            stages[name] = tuple(f"{name}.{block}.relu{half}" for block in range(count) for half in (1, 2))
        return stages


def cifar_resnet(
    depth: int, *, num_classes: int, in_channels: int = 3, shortcut: str = "A", width: float = 1.0
) -> ResNet:
    """The CIFAR family: depth 6n + 2 gives n blocks in each of three stages of 16, 32, 64 channels times
    ``width``.
    """
    if depth not in CIFAR_DEPTHS:
        raise ValueError(
            f"no ResNet of depth {depth} in the CIFAR family; there are {', '.join(map(str, CIFAR_DEPTHS))}"
        )
    widths = scaled_widths((16, 32, 64), width)
    return ResNet(
        [(depth - 2) // 6] * 3, widths, num_classes=num_classes, in_channels=in_channels, shortcut=shortcut
    )


def resnet18(*, num_classes: int, in_channels: int = 3, shortcut: str = "B", width: float = 1.0) -> ResNet:
    """ResNet-18 for 32x32 and 64x64 images: 3x3 stem of stride 1, no max pooling, widths 64 to 512 times
    ``width``.
    """
    widths = scaled_widths((64, 128, 256, 512), width)
    return ResNet([2] * 4, widths, num_classes=num_classes, in_channels=in_channels, shortcut=shortcut)


#: Widest network: ten is the widest of those published.
MAX_WIDTH = 64


def scaled_widths(widths: Sequence[int], factor: float) -> tuple[int, ...]:
    """Channel counts times ``factor``, rounded, at least 1: DeepReDuce's third way to fewer ReLUs."""
    if not 0 < factor <= MAX_WIDTH:
        raise ValueError(f"width must be a positive factor of at most {MAX_WIDTH}, not {factor!r}")
    return tuple(max(1, round(width * factor)) for width in widths)
