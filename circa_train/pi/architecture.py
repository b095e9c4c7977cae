"""What both parties know of a network: its layers, their shapes, every k and mode, and no weight.

The server reads it from its export folder and sends it; the client believes nothing of it before it has
worked every shape out anew. ``index`` tensors say which elements have a ReLU, and belong to the architecture
as a k does. The digest stands for all of it, so that a client who has seen it before can insist on it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from circa_train.export.layers import (
    ExportError,
    Input,
    Layer,
    MaxPool,
    ReLU,
    Rescale,
    layer_from_dict,
    layer_to_dict,
)
from circa_train.export.shapes import MAX_ELEMENTS, expect, shape_of, wrong
from circa_train.export.shares import Holding, holdings
from circa_train.field import check_prime
from circa_train.files import json_digest
from circa_train.gc.circuits import MODES, ReluCircuit
from circa_train.rescaling import check_rescale_bits

#: Of one image's values in all layers together; what a client takes memory and disk for.
MAX_TOTAL_ELEMENTS = 2**28

#: Bytes of an architecture as JSON.
MAX_BYTES = 64 * 2**20

Tensors = Mapping[str, NDArray[np.int64]]


class ArchitectureError(ValueError):
    """An architecture that contradicts itself, or that this protocol cannot run; the message names the layer
    or the entry.
    """


@dataclass(frozen=True)
class SignTest:
    """One site's test: ``mode`` exact, poszero or negpass; ``k`` for all channels, or one per channel."""

    mode: str
    k: int | tuple[int, ...] = 0

    def circuit(self, prime: int, k: int) -> ReluCircuit:
        """The circuit of the channels that have this ``k``."""
        if self.mode == "exact":
            return ReluCircuit("exact", prime)
        return ReluCircuit("truncated", prime, k, self.mode)  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class Architecture:
    """See the module's text; :meth:`from_json` and :meth:`from_manifest` make and check it.

    Attributes:
        prime: the field.
        layers: in the order of execution.
        tests: of every ReLU, by its name.
        shapes: of the weights and biases, by ``<layer>.<tensor>``.
        index: the index tensors, by the same.
        output: name of the layer whose value is the logits.
        preprocessing: ``mean`` and ``std`` per channel for pixels in [0, 1], ``frac_bits`` of the input.
        unit: (fraction bits, numerator, denominator) of the logits' scale.
        class_names: of the outputs; may be empty.
    """

    prime: int
    layers: tuple[Layer, ...]
    tests: Mapping[str, SignTest]
    shapes: Mapping[str, tuple[int, ...]]
    index: Tensors
    output: str
    preprocessing: Mapping[str, Any]
    unit: tuple[int, int, int]
    class_names: tuple[str, ...]

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any], tensors: Tensors) -> Architecture:
        """The architecture of an export folder, from its manifest and the tensors of its weights file.

        Raises:
            ArchitectureError: if they contradict each other, or hold what the protocol cannot run.
        """
        kept = {
            "prime": manifest["prime"],
            "layers": [
                {key: value for key, value in entry.items() if key not in ("frac_bits", "factor", "shares")}
                for entry in manifest["layers"]
            ],
            "shapes": {
                name: list(t.shape) for name, t in sorted(tensors.items()) if not name.endswith(".index")
            },
            "index": {name: t.tolist() for name, t in sorted(tensors.items()) if name.endswith(".index")},
            "output": manifest["output"]["layer"],
            "preprocessing": {key: manifest["input"][key] for key in ("mean", "std", "frac_bits")},
            "unit": [manifest["output"]["frac_bits"], *manifest["output"]["factor"]],
            "class_names": list(manifest["class_names"]),
        }
        return cls.from_value(kept)

    @classmethod
    def from_json(cls, text: bytes) -> Architecture:
        """Inverse of :meth:`to_json`, for bytes that came from somebody else."""
        try:
            value = json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise ArchitectureError(f"the architecture is no JSON: {error}") from error
        return cls.from_value(value)

    @classmethod
    def from_value(cls, value: Any) -> Architecture:
        """From JSON values, everything checked.

        Raises:
            ArchitectureError: naming what is missing, odd or contradicts the rest.
        """
        try:
            return _checked(value)
        except ArchitectureError:
            raise
        except Exception as error:  # what odd JSON may raise is no list
            raise ArchitectureError(
                f"the architecture is not understood: {type(error).__name__}: {error}"
            ) from error

    @cached_property
    def value(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "prime": self.prime,
            "layers": [layer_to_dict(layer) | self._test_of(layer) for layer in self.layers],
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "index": {name: tensor.tolist() for name, tensor in self.index.items()},
            "output": self.output,
            "preprocessing": dict(self.preprocessing),
            "unit": list(self.unit),
            "class_names": list(self.class_names),
        }

    def to_json(self) -> bytes:
        """As it is sent."""
        return json.dumps(self.value, allow_nan=False, separators=(",", ":")).encode()

    @cached_property
    def digest(self) -> bytes:
        """SHA-256, 32 bytes, that stands for everything here."""
        return bytes.fromhex(json_digest(self.value))

    @cached_property
    def held(self) -> dict[str, Holding]:
        """Who holds what at each layer, and in which round trip."""
        return {holding.layer: holding for holding in holdings(self)}

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.layers[0].shape

    def layer(self, name: str) -> Layer:
        """The layer of that name."""
        return self._named[name]

    def entry(self, layer: Layer) -> dict[str, Any]:
        """The layer as the export's ``reader.py`` reads it."""
        return layer_to_dict(layer) | self._test_of(layer)

    @cached_property
    def _named(self) -> dict[str, Layer]:
        return {layer.name: layer for layer in self.layers}

    def _test_of(self, layer: Layer) -> dict[str, Any]:
        if not isinstance(layer, ReLU):
            return {}
        test = self.tests[layer.name]
        if test.mode == "exact":
            return {"mode": "exact"}
        return {"mode": test.mode, "k": list(test.k) if isinstance(test.k, tuple) else test.k}


def _checked(value: dict[str, Any]) -> Architecture:
    keys = {"prime", "layers", "shapes", "index", "output", "preprocessing", "unit", "class_names"}
    if not isinstance(value, dict) or set(value) != keys:
        raise ArchitectureError(f"the architecture needs exactly the entries {', '.join(sorted(keys))}")
    prime = check_prime(value["prime"])
    shapes = {name: tuple(_whole(n, name) for n in shape) for name, shape in value["shapes"].items()}
    index = {name: np.array([_whole(n, name) for n in t], np.int64) for name, t in value["index"].items()}
    layers, tests = _layers(value["layers"], prime)
    try:
        _check_layers(layers, tests, shapes, index, prime)
    except ExportError as error:
        raise ArchitectureError(str(error)) from error
    if value["output"] not in {layer.name for layer in layers}:
        raise ArchitectureError(f"there is no output layer {value['output']!r}")
    output = next(layer for layer in layers if layer.name == value["output"])
    first = layers[0].shape
    mean, std = ([float(v) for v in value["preprocessing"][key]] for key in ("mean", "std"))
    if not (len(mean) == len(std) == first[0] and all(map(math.isfinite, mean + std)) and min(std) > 0):
        raise ArchitectureError("preprocessing needs one finite mean and positive std per channel")
    frac_bits = _whole(value["preprocessing"]["frac_bits"], "frac_bits")
    names = tuple(str(name) for name in value["class_names"])
    if names and (len(names),) != output.shape:
        raise ArchitectureError(f"{len(names)} class names for an output of shape {output.shape}")
    unit = tuple(_whole(n, "unit") for n in value["unit"])
    if len(unit) != 3 or min(unit[1:]) < 1 or max(frac_bits, unit[0]) > 64:
        raise ArchitectureError(f"unit {unit} is no scale")
    preprocessing = {"mean": mean, "std": std, "frac_bits": frac_bits}
    return Architecture(prime, layers, tests, shapes, index, output.name, preprocessing, unit, names)


def _layers(entries: list[dict[str, Any]], prime: int) -> tuple[tuple[Layer, ...], dict[str, SignTest]]:
    layers: list[Layer] = []
    tests: dict[str, SignTest] = {}
    known: set[str] = set()
    for entry in entries:
        entry = dict(entry)
        mode, k = entry.pop("mode", None), entry.pop("k", 0)
        layer = layer_from_dict(entry)
        if layer.name in known or not set(layer.inputs) <= known:
            raise ArchitectureError(
                f"layer {layer.name!r} is named twice, or reads what was not computed before it"
            )
        if isinstance(layer, ReLU):
            tests[layer.name] = _test(layer, mode, k, prime)
        elif mode is not None or k != 0:
            raise ArchitectureError(f"layer {layer.name!r} is no ReLU and has no sign test")
        layers.append(layer)
        known.add(layer.name)
    if not layers or not isinstance(layers[0], Input):
        raise ArchitectureError("the first layer is not the input")
    return tuple(layers), tests


def _test(layer: ReLU, mode: Any, k: Any, prime: int) -> SignTest:
    if mode == "exact":
        return SignTest("exact")
    if mode not in MODES:
        raise ArchitectureError(f"layer {layer.name!r}: mode {mode!r} is none of exact, {', '.join(MODES)}")
    values = tuple(k) if isinstance(k, list) else (k,)
    for each in values:
        ReluCircuit("truncated", prime, _whole(each, layer.name), mode)  # refuses a k that p has no room for
    if isinstance(k, list):
        if len(values) != layer.shape[0]:
            raise ArchitectureError(f"layer {layer.name!r}: {len(values)} k for {layer.shape[0]} channels")
        return SignTest(mode, values)
    return SignTest(mode, values[0])


def _check_layers(
    layers: tuple[Layer, ...],
    tests: Mapping[str, SignTest],
    shapes: Mapping[str, tuple[int, ...]],
    index: Tensors,
    prime: int,
) -> None:
    found: dict[str, tuple[int, ...]] = {}
    wanted: set[str] = set()
    numbers = {ReLU: 0, Rescale: len(tests)}
    total = 0
    for layer in layers:
        if isinstance(layer, MaxPool):
            raise wrong(
                layer,
                "max pooling needs comparisons of its own, which this protocol has not; use average pooling",
            )
        if isinstance(layer, Input) and layer is not layers[0]:
            raise wrong(layer, "a second input")
        wanted.update(layer.tensor_names())
        tensors: dict[str, NDArray[np.int64]] = {}
        for leaf in layer.tensors:
            name = f"{layer.name}.{leaf}"
            if leaf == "index":
                tensors[leaf] = index[name]
            else:  # a shape takes no memory
                tensors[leaf] = np.broadcast_to(np.int64(0), shapes[name])
        expect(layer, "shape", tuple(layer.shape), shape_of(layer, [found[n] for n in layer.inputs], tensors))
        if not 0 < math.prod(layer.shape) <= MAX_ELEMENTS:
            raise wrong(layer, f"its value has {math.prod(layer.shape)} elements, not 1 to {MAX_ELEMENTS}")
        total += math.prod(layer.shape)
        if isinstance(layer, (ReLU, Rescale)):
            expect(layer, "site", layer.site, numbers[type(layer)])
            numbers[type(layer)] += 1
        if isinstance(layer, Rescale):
            check_rescale_bits(layer.bits, prime)
            if layer.bits == 0:
                raise wrong(layer, "it drops no bits")
        found[layer.name] = layer.shape
    if total > MAX_TOTAL_ELEMENTS:
        raise ArchitectureError(f"all layers have {total} elements; at most {MAX_TOTAL_ELEMENTS} are run")
    if wanted != {*shapes, *index}:
        odd = sorted(wanted ^ {*shapes, *index})
        raise ArchitectureError(f"layers and tensors differ in {', '.join(odd)}")


def _whole(value: Any, place: str) -> int:
    if type(value) is not int or value < 0:
        raise ArchitectureError(f"{place}: {value!r} is no whole number")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")
