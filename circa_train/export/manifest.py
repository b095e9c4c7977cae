"""The manifest: the integer network and its origin as JSON, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

import circa_train
from circa_train.export.convert import Conversion
from circa_train.export.layers import ExportError, Layer, ReLU, Rescale, layer_from_dict, layer_to_dict
from circa_train.export.quantize import Format, IntegerPlan, Scale
from circa_train.export.shares import holdings, round_trips
from circa_train.fault import BitWindow, NoFault, SignTest, TruncatedSign
from circa_train.field import largest_centred
from circa_train.rescaling import check_rescale_bits, check_rescaling

#: What is written. 2 added the offset rescaling, who holds which share, exact logits and the pairs; 3 what
#: other people's runtimes asked for: logits of the real network, how many values overflow in the vectors, and
#: networks of bit windows in the ring Z_2^64.
FORMAT = 3

#: What is read.
FORMATS = (1, 2, 3)


def describe(
    conversion: Conversion,
    data: Mapping[str, Any],
    accuracy: Mapping[str, Any] | None,
    provenance: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The manifest of a network: JSON values. Inverse, as far as the network goes, of :func:`restore`."""
    network, plan = conversion.network, conversion.network.plan
    fixed, first = plan.format, plan.layers[0]
    held = None if fixed.ring else holdings(plan)
    of_a_field = {} if held is None else {"offset": fixed.prime // 4, "round_trips": round_trips(held)}
    return {
        "format": FORMAT,
        "version": circa_train.__version__,
        "prime": None if fixed.ring else fixed.prime,
        "ring_bits": 64 if fixed.ring else None,
        "largest_value": largest_centred(fixed.prime),
        "frac_bits": {
            "activation": fixed.activation_frac_bits,
            "weight": fixed.weight_frac_bits,
            "accumulator": fixed.accumulator_frac_bits,
        },
        "input": {
            "shape": list(first.shape),
            "frac_bits": fixed.activation_frac_bits,
            "mean": list(data["mean"]),
            "std": list(data["std"]),
        },
        "output": {"layer": plan.output, **_scale_to_dict(plan.scales[plan.output])},
        "rescaling": network.rescaling,
        "rescalings": {
            name: {"wraps_per_image": sum(conversion.report.wraps(name).values())}
            for name in fixed.rescalings
        },
        **of_a_field,
        "class_names": list(data.get("class_names") or ()),
        "data": {key: value for key, value in data.items() if key not in ("mean", "std", "class_names")},
        "accuracy": None if accuracy is None else dict(accuracy),
        "provenance": dict(provenance or {}),
        "layers": [
            layer_to_dict(layer)
            | _scale_to_dict(plan.scales[layer.name])
            | _test_to_dict(layer, network.specs)
            | ({} if held is None else {"shares": held[place].to_value()})
            for place, layer in enumerate(plan.layers)
        ],
        "integer_error": conversion.error,
        "folding": [{"batch_norm": fold.batch_norm, "into": fold.into} for fold in conversion.folds],
        "ranges": conversion.report.to_value(),
    }


def _scale_to_dict(scale: Scale) -> dict[str, Any]:
    return {"frac_bits": scale.frac_bits, "factor": [scale.factor.numerator, scale.factor.denominator]}


def _test_to_dict(layer: Layer, specs: Mapping[str, SignTest]) -> dict[str, Any]:
    """Of a ReLU: its sign test, ``mode`` exact, as in :class:`TruncatedSign` with ``k``, or bit_window with
    ``low`` and ``high``.
    """
    if not isinstance(layer, ReLU):
        return {}
    spec = specs[layer.name]
    if isinstance(spec, NoFault):
        return {"mode": "exact"}
    if isinstance(spec, BitWindow):
        return {"mode": spec.kind, "low": spec.low, "high": spec.high}
    assert isinstance(spec, TruncatedSign)
    return {"mode": spec.mode, "k": list(spec.k) if isinstance(spec.k, tuple) else spec.k}


def restore(manifest: dict[str, Any], weights: dict[str, Tensor]) -> tuple[IntegerPlan, dict[str, SignTest]]:
    """The network and its sign tests, from either format. Any error that it raises says that this is no
    manifest, or not that of ``weights``.
    """
    if manifest["format"] not in FORMATS:
        raise ValueError(f"format {manifest['format']!r} is none of {FORMATS}; update circa_train")
    check_rescaling(manifest["rescaling"])
    bits, ring = manifest["frac_bits"], manifest.get("ring_bits") is not None
    if ring and (manifest["ring_bits"] != 64 or manifest["prime"] is not None):
        raise ValueError(f"ring_bits is {manifest['ring_bits']!r} beside prime {manifest['prime']!r}")
    prime = 2 * manifest["largest_value"] + 1 if ring else manifest["prime"]
    fixed = Format(bits["activation"], bits["weight"], prime, ring)
    layers: list[Layer] = []
    scales: dict[str, Scale] = {}
    specs: dict[str, SignTest] = {}
    shares: list[Any] = []
    for entry in manifest["layers"]:
        entry = dict(entry)
        scale = Scale(entry.pop("frac_bits"), Fraction(*entry.pop("factor")))
        test = {key: entry.pop(key) for key in ("mode", "k", "low", "high") if key in entry}
        shares.append(entry.pop("shares", None))
        layer = layer_from_dict(entry)
        if layer.name in scales or not set(layer.inputs) <= scales.keys():
            raise ValueError(f"layer {layer.name!r} is named twice, or reads what was not computed before it")
        if isinstance(layer, Rescale):
            check_rescale_bits(layer.bits, prime)
        if isinstance(layer, ReLU):
            specs[layer.name] = _test_from_dict(test, prime, ring)
        layers.append(layer)
        scales[layer.name] = scale
    expected = {name for layer in layers for name in layer.tensor_names()}
    if expected != set(weights) or any(tensor.dtype != torch.int32 for tensor in weights.values()):
        raise ValueError("the layers and weights.safetensors do not have the same int32 tensors")
    if manifest["output"]["layer"] not in scales:
        raise ValueError(f"there is no output layer {manifest['output']['layer']!r}")
    plan = IntegerPlan(fixed, tuple(layers), weights, scales, manifest["output"]["layer"])
    if manifest["format"] > 1 and not ring:
        _check_shares(manifest, plan, shares)
    return plan, specs


def _test_from_dict(test: dict[str, Any], prime: int, ring: bool) -> SignTest:
    """Inverse of :func:`_test_to_dict`; ValueError for a test that does not belong to the ring or field."""
    match test:
        case {"mode": "exact", **others} if not others:
            return NoFault()
        case {"mode": BitWindow.kind, "low": low, "high": high, **others} if ring and not others:
            return BitWindow(low, high)
        case {"mode": mode, "k": k, **others} if not ring and not others:
            return TruncatedSign(tuple(k) if isinstance(k, list) else k, mode, prime)
    place = "the ring Z_2^64" if ring else f"the field of p = {prime}"
    raise ValueError(f"{test} is no sign test of {place}")


def _check_shares(manifest: dict[str, Any], plan: IntegerPlan, shares: list[Any]) -> None:
    """What the manifest says of both parties must be what its layers say."""
    held = holdings(plan)
    for holding, found in zip(held, shares, strict=True):
        if found != holding.to_value():
            raise ValueError(
                f"layer {holding.layer!r}: shares are {found}, but its place among the layers says "
                f"{holding.to_value()}"
            )
    facts = {"offset": plan.format.prime // 4, "round_trips": round_trips(held)}
    for key, value in facts.items():
        if manifest[key] != value:
            raise ValueError(f"{key} is {manifest[key]!r}, and {value} by the prime and the layers")


def check_described(manifest: dict[str, Any], plan: IntegerPlan) -> None:
    """ExportError, or whatever a missing or odd entry raises, if what the manifest says beside its layers is
    not so.
    """
    fixed, first, output = plan.format, plan.layers[0], plan.scales[plan.output]
    classes = next(layer.shape for layer in plan.layers if layer.name == plan.output)
    facts = {
        "frac_bits.accumulator": (manifest["frac_bits"]["accumulator"], fixed.accumulator_frac_bits),
        "input.shape": (manifest["input"]["shape"], list(first.shape)),
        "input.frac_bits": (manifest["input"]["frac_bits"], fixed.activation_frac_bits),
        "output": (manifest["output"], {"layer": plan.output, **_scale_to_dict(output)}),
        "vectors.images": (type(manifest["vectors"]["images"]), int),
    }
    if manifest["format"] > 2:
        facts["largest_value"] = (manifest["largest_value"], largest_centred(fixed.prime))
    if manifest["class_names"]:
        facts["number of class_names"] = ([len(manifest["class_names"])], list(classes))
    for what, (found, wanted) in facts.items():
        if found != wanted:
            raise ExportError(f"{what} is {found}, but {wanted} by the layers")
    for key in ("mean", "std"):
        values = manifest["input"][key]
        numbers = all(isinstance(value, (int, float)) and math.isfinite(value) for value in values)
        if len(values) != first.shape[0] or not numbers or (key == "std" and min(values) <= 0):
            raise ExportError(f"input.{key} is {values}: one number per channel, {key} above 0, is needed")
    kinds = {"data": dict, "provenance": dict, "ranges": dict, "class_names": list}
    for key, kind in kinds.items():
        if not isinstance(manifest[key], kind):
            raise ExportError(f"{key} is a {type(manifest[key]).__name__}, not a {kind.__name__}")
    if not isinstance(manifest["data"]["name"], str):
        raise ExportError("data.name is no text")
    for row in manifest["ranges"]["layers"]:
        if not isinstance(row["layer"], str) or not isinstance(row["wrap_faults"], (int, float)):
            raise ExportError(f"ranges: {row['layer']!r} is no row of a layer")


def require_int64(plan: IntegerPlan) -> None:
    """Whatever the inputs in the field, no sum of a linear layer may leave int64: readers need no wider
    integers.
    """
    for layer in plan.layers:
        if "weight" in layer.tensors:
            heaviest = int(plan.tensors[f"{layer.name}.weight"].long().abs().flatten(1).sum(1).max())
            if heaviest * (plan.format.prime // 2) >= 2**62:
                raise ExportError(
                    f"layer {layer.name}: its weights sum to {heaviest}, too much for int64; use fewer "
                    "weight bits"
                )
