"""One linear layer as products of polynomials: which coefficient holds what. Plain numpy, no encryption.

A ciphertext holds one polynomial of N coefficients, and encrypted polynomials multiply modulo X^N + 1. A
product of polynomials is a convolution already, so a layer needs no rotation of slots if its numbers stand at
the right coefficients. The idea is Cheetah's (ePrint 2022/207); this packing needs less room for the padding.

**The law.** A picture of height h and width w, to be padded by (ph, pw) zeros on every side, is stored with
rows of *pitch* P = w + pw, and takes a *block* of S = (h + ph) P coefficients. What is not picture is zero.
So pw zeros follow each row and ph rows of zeros follow each picture: they pad the row, or the picture, that
ends there and the next one, and modulo X^N + 1 the first one comes after the last. For c input channels and
m output channels in one polynomial each, with (a, b) the rows and columns from the window's corner to the
weight (a multiple of the dilation):

    input      X[C S + i P + j]                           =  x[C, i, j]
    weights    K[M c S - (C S + (a - ph) P + (b - pw))]  +=  w[M, C, a, b]
    result     (X K)[M c S + i sh P + j sw]               =  y[M, i, j]

with indices modulo N, where index e + N stands for minus the coefficient e. It holds if m c S <= N and
ph, pw are smaller than the window. For a weight of M adds to the result of M the number of X at
C S + (i sh + a - ph) P + (j sw + b - pw). That is the right one, or, where the window leaves the picture,
one of the zeros before or after it. A weight of another M' adds what stands (M - M') c S coefficients
further. That lies behind the last picture and, modulo N, before the first one, where all is zero.

**Tiles.** Channels that do not fit are spread over several polynomials: inputs over ``input_tiles``, whose
products are summed, outputs over ``output_tiles``. A picture that does not fit is cut into ``row_tiles``,
strips of rows that overlap by the window; they are padded beforehand at top and bottom, so that ph = 0.
Groups are zeros among the weights; products in which all is zero are left out. A window of one row does not
see the rows that the stride jumps over, and they are not packed; the same holds for columns. A matrix is a
convolution over pictures of one number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from circa_train.pi.linear_shape import LinearShape

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Axis:
    """Rows or columns of a layer, brought to where the law holds.

    Attributes:
        margin: zeros to add at both ends: the padding that no window shares with the picture.
        step: only every ``step``-th is packed.
        size, padding, stride: what the law is about, after both.
    """

    margin: int
    step: int
    size: int
    padding: int
    stride: int

    @classmethod
    def of(cls, size: int, window: int, stride: int, padding: int) -> Axis:
        margin = max(0, padding - (window - 1))
        size += 2 * margin
        if window == 1:
            return cls(margin, stride, -(-size // stride), 0, 1)
        return cls(margin, 1, size, padding - margin, stride)


@dataclass(frozen=True)
class Packing:
    """How one layer is laid out in polynomials. Both parties choose the same one, from the shape alone.

    Attributes:
        shape: of the layer.
        degree: N.
        strip: output rows of a row tile; all of them if the picture is not cut.
        inputs, outputs: channels of one polynomial, c and m.
    """

    shape: LinearShape
    degree: int
    strip: int
    inputs: int
    outputs: int

    def __post_init__(self) -> None:
        if self.outputs * self.inputs * self.block > self.degree:
            raise ValueError(
                f"{self} does not fit: {self.outputs} x {self.inputs} x {self.block} coefficients"
            )

    @cached_property
    def _axes(self) -> tuple[Axis, Axis]:
        shape, window = self.shape, self.shape.window
        rows = Axis.of(shape.height, window[0], shape.stride[0], shape.padding[0])
        columns = Axis.of(shape.width, window[1], shape.stride[1], shape.padding[1])
        if self.strip < shape.output_rows:  # padded beforehand, then cut
            size = rows.size + 2 * rows.padding
            rows = Axis(rows.margin + rows.padding, rows.step, size, 0, rows.stride)
        return rows, columns

    @property
    def rows(self) -> int:
        """Picture rows of one block."""
        rows = self._axes[0]
        return rows.size if self.row_tiles == 1 else (self.strip - 1) * rows.stride + self.shape.window[0]

    @property
    def pitch(self) -> int:
        return self._axes[1].size + self._axes[1].padding

    @property
    def block(self) -> int:
        return (self.rows + self._axes[0].padding) * self.pitch

    @property
    def row_tiles(self) -> int:
        return -(-self.shape.output_rows // self.strip)

    @property
    def input_tiles(self) -> int:
        return -(-self.shape.channels // self.inputs)

    @property
    def output_tiles(self) -> int:
        return -(-self.shape.outputs // self.outputs)

    @property
    def weights_per_result(self) -> int:
        """Most weights that the polynomials multiplied for one output polynomial can have together."""
        return self.outputs * self.shape.channels // self.shape.groups * math.prod(self.shape.kernel)

    def input_polynomials(self, x: Integers) -> Integers:
        """``x`` as polynomials: (row tiles, input tiles, N)."""
        rows, columns = self._axes
        x = x.reshape(self.shape.channels, self.shape.height, self.shape.width)
        x = np.pad(x, ((0, 0), (rows.margin,) * 2, (columns.margin,) * 2))[:, :: rows.step, :: columns.step]
        packed = np.zeros((self.row_tiles, self.input_tiles * self.inputs, self.block), np.int64)
        for tile, blocks in enumerate(packed):
            first = tile * self.strip * rows.stride
            strip = x[:, first : first + self.rows]
            room = blocks.reshape(len(blocks), -1, self.pitch)
            room[: len(strip), : strip.shape[1], : columns.size] = strip
        polynomials = np.zeros((self.row_tiles, self.input_tiles, self.degree), np.int64)
        used = self.inputs * self.block
        polynomials[..., :used] = packed.reshape(self.row_tiles, self.input_tiles, used)
        return polynomials

    def weight_polynomial(self, weights: Integers, output_tile: int, input_tile: int) -> Integers | None:
        """The weights between two tiles, signed, or None if the groups leave none between them."""
        shape, (rows, columns) = self.shape, self._axes
        of_group = shape.channels // shape.groups
        first = output_tile * self.outputs
        tile = weights[first : first + self.outputs].reshape(-1, of_group, *shape.kernel)
        group = (first + np.arange(len(tile))) // (shape.outputs // shape.groups)
        channel = group[:, None] * of_group + np.arange(of_group) - input_tile * self.inputs
        output, of_channel = np.nonzero((channel >= 0) & (channel < self.inputs))
        if not len(output):
            return None
        corner = (output * self.inputs - channel[output, of_channel]) * self.block
        down = (np.arange(shape.kernel[0]) * shape.dilation[0] - rows.padding) * self.pitch
        right = np.arange(shape.kernel[1]) * shape.dilation[1] - columns.padding
        index = corner[:, None, None] - down[:, None] - right
        turns, place = np.divmod(index, self.degree)
        polynomial = np.zeros(self.degree, np.int64)
        np.add.at(polynomial, place, np.where(turns % 2, -1, 1) * tile[output, of_channel])
        return polynomial

    def results(self, output_tile: int, row_tile: int) -> tuple[Integers, tuple[slice, slice]]:
        """Where one product holds results: the coefficients (channels, rows, columns), and which channels and
        rows of the layer's output they are.
        """
        rows, columns = self._axes
        channels = slice(
            output_tile * self.outputs, min((output_tile + 1) * self.outputs, self.shape.outputs)
        )
        lines = slice(row_tile * self.strip, min((row_tile + 1) * self.strip, self.shape.output_rows))
        output = np.arange(channels.stop - channels.start) * (self.inputs * self.block)
        down = np.arange(lines.stop - lines.start) * (rows.stride * self.pitch)
        right = np.arange(self.shape.output_columns) * columns.stride
        return output[:, None, None] + down[:, None] + right, (channels, lines)


def choose(shape: LinearShape, degree: int, most_weights: int, up: int, down: int) -> Packing:
    """The packing with the fewest bytes, by exhaustion; of several, the one with the fewest products.

    Args:
        shape: of the layer.
        degree: N.
        most_weights: bound on :attr:`Packing.weights_per_result`.
        up, down: bytes of one ciphertext to the server, and of one to the client.

    Raises:
        ValueError: if not even one row of windows of one channel fits into N coefficients, or if one output
            has too many weights.
    """
    best: tuple[int, int, Packing] | None = None
    weights = shape.channels // shape.groups * math.prod(shape.kernel)
    if weights > most_weights:
        raise ValueError(
            f"{shape}: {weights} weights per output are more than the {most_weights} whose noise can be "
            "flooded; use the dealer for this network"
        )
    sizes = _divisions(shape.outputs)
    for strip in _divisions(shape.output_rows):
        block = Packing(shape, 2**62, strip, 1, 1).block
        for inputs in _divisions(shape.channels):
            room = min(degree // (inputs * block), most_weights // weights)
            if not room:
                continue
            outputs = next(size for size in sizes if size <= room)
            packing = Packing(shape, degree, strip, inputs, outputs)
            tiles = packing.row_tiles, packing.input_tiles, packing.output_tiles
            cost = tiles[0] * (tiles[1] * up + tiles[2] * down)
            if best is None or (cost, math.prod(tiles)) < best[:2]:
                best = cost, math.prod(tiles), packing
    if best is None:
        raise ValueError(
            f"{shape}: one row of windows of one channel is more than N = {degree} coefficients; "
            "use the dealer for this network"
        )
    return best[2]


def negacyclic_product(a: Integers, b: Integers, modulus: int) -> list[int]:
    """a times b modulo X^N + 1 and ``modulus``, coefficient by coefficient: what SEAL's products are."""
    degree = len(a)
    product = [0] * degree
    for i in np.flatnonzero(a).tolist():
        for j in np.flatnonzero(b).tolist():
            sign = 1 if i + j < degree else -1
            product[(i + j) % degree] += sign * int(a[i]) * int(b[j])
    return [number % modulus for number in product]


def _divisions(count: int) -> list[int]:
    """The sizes of tiles of ``count`` things: ceil(count / tiles), each once, largest first."""
    return sorted({-(-count // tiles) for tiles in range(1, count + 1)}, reverse=True)
