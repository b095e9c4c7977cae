"""The layers of a network for private inference: few, typed, explicit, so that a reader in any language can
follow them.

A network is a list of layers in the order of execution; each names the layers whose values it reads. Axes and
shapes are those of *one image*: the batch is no part of the format. The same list describes the real network
(floating point tensors) and the integer one (integer tensors, with :class:`Rescale` and :class:`Shift`
between the scales).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

Pair = tuple[int, int]


class ExportError(ValueError):
    """A network that cannot be exported, or an export folder that is damaged; the message names the layer or
    the file.
    """


@dataclass(frozen=True)
class Layer:
    """What every layer has.

    Attributes:
        name: unique; the qualified name of the module, or of the function's owner and the function.
        inputs: names of the layers whose values it reads.
        shape: of its value, for one image.
    """

    name: str
    inputs: tuple[str, ...]
    shape: tuple[int, ...]

    kind: ClassVar[str] = ""
    #: Tensors it has, stored as ``<name>.<tensor>``.
    tensors: ClassVar[tuple[str, ...]] = ()

    def tensor_names(self) -> tuple[str, ...]:
        return tuple(f"{self.name}.{tensor}" for tensor in self.tensors)


@dataclass(frozen=True)
class Input(Layer):
    """The image."""

    kind: ClassVar[str] = "input"


@dataclass(frozen=True)
class Conv2d(Layer):
    """Cross-correlation with ``weight`` (out, in / groups, height, width), zero padding, plus ``bias``
    (out,).
    """

    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int

    kind: ClassVar[str] = "conv2d"
    tensors: ClassVar[tuple[str, ...]] = ("weight", "bias")


@dataclass(frozen=True)
class Linear(Layer):
    """``weight`` (out, in) times the vector, plus ``bias`` (out,)."""

    kind: ClassVar[str] = "linear"
    tensors: ClassVar[tuple[str, ...]] = ("weight", "bias")


@dataclass(frozen=True)
class ReLU(Layer):
    """x where the sign test of site number ``site`` answers 1, else 0."""

    site: int

    kind: ClassVar[str] = "relu"


@dataclass(frozen=True)
class Add(Layer):
    """The sum of two values of one shape."""

    kind: ClassVar[str] = "add"


@dataclass(frozen=True)
class Concat(Layer):
    """The inputs one after another along ``axis``."""

    axis: int

    kind: ClassVar[str] = "concat"


@dataclass(frozen=True)
class SumPool(Layer):
    """The *sum* over windows of the zero-padded map: average pooling whose division by the window went into
    the scale.
    """

    kernel: Pair
    stride: Pair
    padding: Pair

    kind: ClassVar[str] = "sum_pool"

    @property
    def window(self) -> int:
        return self.kernel[0] * self.kernel[1]


@dataclass(frozen=True)
class MaxPool(Layer):
    """The largest value of each window; padding never wins. Not linear: a protocol needs comparisons of its
    own for it.
    """

    kernel: Pair
    stride: Pair
    padding: Pair

    kind: ClassVar[str] = "max_pool"


@dataclass(frozen=True)
class Slice(Layer):
    """Per axis the elements start, start + step, ... below stop."""

    slices: tuple[tuple[int, int, int], ...]

    kind: ClassVar[str] = "slice"


@dataclass(frozen=True)
class Pad(Layer):
    """Zeros before and after each axis."""

    widths: tuple[Pair, ...]

    kind: ClassVar[str] = "pad"


@dataclass(frozen=True)
class Reshape(Layer):
    """The same elements in row-major order under ``shape``."""

    kind: ClassVar[str] = "reshape"


@dataclass(frozen=True)
class Gather(Layer):
    """The entries ``index`` of axis 0."""

    kind: ClassVar[str] = "gather"
    tensors: ClassVar[tuple[str, ...]] = ("index",)


@dataclass(frozen=True)
class Scatter(Layer):
    """The first input with the entries ``index`` of axis 0 replaced by the second."""

    kind: ClassVar[str] = "scatter"
    tensors: ClassVar[tuple[str, ...]] = ("index",)


@dataclass(frozen=True)
class Rescale(Layer):
    """Drops ``bits`` fraction bits: floor(x / 2^bits), or the local truncation of both shares under the masks
    of ``site``.

    ``site`` is a mask address like that of a sign test, and shared with none.
    """

    bits: int
    site: int

    kind: ClassVar[str] = "rescale"


@dataclass(frozen=True)
class Shift(Layer):
    """Adds ``bits`` fraction bits: x times 2^bits, exact."""

    bits: int

    kind: ClassVar[str] = "shift"


KINDS: dict[str, type[Layer]] = {
    cls.kind: cls
    for cls in (
        Input, Conv2d, Linear, ReLU, Add, Concat, SumPool, MaxPool, Slice, Pad, Reshape, Gather, Scatter,
        Rescale, Shift,
    )
}  # fmt: skip


def layer_to_dict(layer: Layer) -> dict[str, Any]:
    """A JSON-ready description, ``{"kind": ..., <fields>}``. Inverse of :func:`layer_from_dict`."""
    return {"kind": layer.kind, **{name: _listed(value) for name, value in asdict(layer).items()}}


def layer_from_dict(description: Mapping[str, Any]) -> Layer:
    """Rebuild a layer from :func:`layer_to_dict`'s form.

    Raises:
        ValueError: for an unknown kind, a missing or unknown field, or a field that holds anything but names
            and integers.
    """
    values = dict(description)
    kind = values.pop("kind", None)
    if kind not in KINDS:
        raise ValueError(
            f"layer {values.get('name')!r} has the unknown kind {kind!r}; known are {', '.join(KINDS)}"
        )
    cls = KINDS[kind]
    expected = {item.name for item in fields(cls)}
    if set(values) != expected:
        raise ValueError(
            f"layer {values.get('name')!r} ({kind}) needs the fields {sorted(expected)}, got {sorted(values)}"
        )
    for name, value in values.items():
        _check_plain(
            f"layer {values['name']!r}, field {name}", value, str if name in ("name", "inputs") else int
        )
    return cls(**{name: _frozen(value) for name, value in values.items()})


def _check_plain(place: str, value: Any, leaf: type) -> None:
    if isinstance(value, list):
        for item in value:
            _check_plain(place, item, leaf)
    elif type(value) is not leaf:
        raise ValueError(f"{place}: {value!r} is not {'a name' if leaf is str else 'an integer'}")


def _listed(value: Any) -> Any:
    return [_listed(item) for item in value] if isinstance(value, tuple) else value


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value
