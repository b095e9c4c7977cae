"""The shape of one linear layer: a convolution with zero padding, or a matrix. Everything but the weights."""

from __future__ import annotations

from dataclasses import dataclass

Pair = tuple[int, int]


@dataclass(frozen=True)
class LinearShape:
    """What both parties know of a layer.

    Attributes:
        channels, height, width: of the input.
        outputs: output channels.
        kernel, stride, padding, dilation: of rows and of columns.
        groups: output channel M sees the channels of the group M // (outputs / groups) alone.
        flat: the input is (channels,), the output (outputs,), the weights (outputs, channels).
    """

    channels: int
    height: int
    width: int
    outputs: int
    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    flat: bool = False

    def __post_init__(self) -> None:
        positive = (self.channels, self.height, self.width, self.outputs, self.groups)
        if min(*positive, *self.kernel, *self.stride, *self.dilation) < 1 or min(self.padding) < 0:
            raise ValueError(f"{self}: sizes must be at least 1, and the padding at least 0")
        if self.channels % self.groups or self.outputs % self.groups:
            raise ValueError(f"{self}: groups = {self.groups} must divide channels and outputs")
        if min(self.output_rows, self.output_columns) < 1:
            raise ValueError(f"{self}: the window is larger than the padded picture")

    @classmethod
    def matrix(cls, outputs: int, inputs: int) -> LinearShape:
        return cls(inputs, 1, 1, outputs, (1, 1), flat=True)

    @property
    def window(self) -> Pair:
        """Rows and columns from a window's first weight to its last, with both."""
        (kh, kw), (dh, dw) = self.kernel, self.dilation
        return (kh - 1) * dh + 1, (kw - 1) * dw + 1

    @property
    def output_rows(self) -> int:
        return (self.height + 2 * self.padding[0] - self.window[0]) // self.stride[0] + 1

    @property
    def output_columns(self) -> int:
        return (self.width + 2 * self.padding[1] - self.window[1]) // self.stride[1] + 1

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (self.channels,) if self.flat else (self.channels, self.height, self.width)

    @property
    def output_shape(self) -> tuple[int, ...]:
        return (self.outputs,) if self.flat else (self.outputs, self.output_rows, self.output_columns)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        inputs = self.channels // self.groups
        return (self.outputs, inputs) if self.flat else (self.outputs, inputs, *self.kernel)
