"""Test vectors: images, masks and what comes out, so that an implementation in any language can check
itself.

Images say whether the whole network is computed as it should be, but a mask that ties is rare at small k,
and one that wraps is rare at any. So every sign test and every rescaling also has pairs of its own
(:mod:`circa_train.export.pairs`), which tell any other k, mode or way to rescale from the one recorded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from circa_train.export.integer import IntegerNetwork
from circa_train.export.layers import ExportError, Layer, ReLU, Rescale
from circa_train.export.pairs import rescale_pairs, sign_pairs, window_pairs
from circa_train.fault import BitWindow, TruncatedSign, ring_masks, uniform_masks
from circa_train.nn import set_faults

#: Seed and draw that the recorded masks belong to; readers use the masks and need neither.
SEED, DRAW = 0, 0

#: What the first format of the folder had.
FIRST_RESCALINGS = ("floor", "local")

#: The rescalings whose sums per layer are recorded, and under which key of the manifest's ``vectors``.
SUMS = {"floor": "layer_sums", "offset": "offset_layer_sums"}


def make_vectors(
    network: IntegerNetwork, images: Tensor, labels: Tensor, *, mean: Sequence[float], std: Sequence[float]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Run a few images with recorded masks.

    Args:
        network: the network; its own seed, rescaling and draws play no part.
        images: uint8 (n, C, H, W); ``labels`` int64 (n,).
        mean, std: normalisation per channel, for pixels in [0, 1].

    Returns:
        (vectors, described): ``images`` (uint8) and int32 ``labels``, ``inputs``, ``mask.<layer>`` for every
        truncated sign test and every rescaling, ``logits.<rescaling>``, the same with exact ReLUs as
        ``exact.<rescaling>``, and the pairs of every sign test and rescaling. Described is how many images
        there are, how many values left the field or the rescaling's domain in each run (0: the run is the
        same in any larger ring), and, under floor and offset, the sum modulo p of each layer's values for
        each image, to find the first layer that differs.
    """
    images = images.cpu()
    centre, spread = (
        torch.tensor(list(values), dtype=torch.float64).view(1, -1, 1, 1) for values in (mean, std)
    )
    inputs = _fresh(network, "floor").quantize((images.double() / 255 - centre) / spread)
    vectors = {"images": images, "labels": labels.cpu(), "inputs": inputs}
    for layer in network.plan.layers:
        if _is_masked(network, layer):
            vectors[f"mask.{layer.name}"] = _mask(network, layer, len(images))
    described: dict[str, Any] = {"images": len(images), "overflows": {}}
    for rescaling in network.plan.format.rescalings:
        for faults in (True, False):
            logits, sums, overflows = _outcome(network, rescaling, inputs, faults)
            vectors[_logits_name(rescaling, faults)] = logits
            described["overflows"][_logits_name(rescaling, faults)] = overflows
            if faults and rescaling in SUMS:
                described[SUMS[rescaling]] = sums
    for name, tensor in _pairs(network):
        vectors[name] = tensor
    narrow = {name: value.to(_dtype(network, name)) for name, value in vectors.items()}
    return {name: value.contiguous() for name, value in narrow.items()}, described


def check_vectors(
    network: IntegerNetwork, vectors: Mapping[str, Tensor], described: Mapping[str, Any], version: int
) -> None:
    """ExportError naming the first layer, mask, pair or logits that a fresh run does not reproduce.

    Args:
        network: the network that a folder brought.
        vectors: its vectors; ``described`` what its manifest says of them.
        version: the format of the folder: the first has two rescalings, no pairs and no exact logits.
    """
    inputs = _tensor(vectors, "inputs").long()
    if tuple(inputs.shape) != (described.get("images"), *network.plan.input_shape) or not len(inputs):
        raise ExportError(
            f"inputs of the test vectors have the shape {tuple(inputs.shape)}, and the manifest says "
            f"{described.get('images')} images of {network.plan.input_shape}"
        )
    _check_names(network, vectors, version)
    _check_masks(network, inputs, vectors)
    if version > 1:
        for name, tensor in _pairs(network):
            if not torch.equal(tensor, _tensor(vectors, name).long()):
                raise ExportError(f"{name} of the test vectors is not what the manifest's layer gives")
    for rescaling in FIRST_RESCALINGS if version == 1 else network.plan.format.rescalings:
        for faults in (True,) if version == 1 else (True, False):
            logits, sums, overflows = _outcome(network, rescaling, inputs, faults)
            name = _logits_name(rescaling, faults)
            if version > 2 and described["overflows"].get(name) != overflows:
                recorded = described["overflows"].get(name)
                raise ExportError(f"overflows of {name} are {overflows}, the manifest says {recorded}")
            if faults and rescaling in SUMS:
                _check_sums(described.get(SUMS[rescaling]), sums, SUMS[rescaling])
            if not torch.equal(logits, _tensor(vectors, name).long()):
                raise ExportError(f"{name} of the test vectors are not what the weights and masks give")


def _check_names(network: IntegerNetwork, vectors: Mapping[str, Tensor], version: int) -> None:
    masked = [layer.name for layer in network.plan.layers if _is_masked(network, layer)]
    rescalings = network.plan.format.rescalings
    wanted = {"images", "labels", "inputs", *(f"mask.{name}" for name in masked)}
    wanted |= {_logits_name(how, True) for how in (FIRST_RESCALINGS if version == 1 else rescalings)}
    if version > 1:
        wanted |= {_logits_name(how, False) for how in rescalings} | {name for name, _ in _pairs(network)}
    for name in sorted(wanted ^ set(vectors)):
        raise ExportError(f"{name} is {'missing in' if name in wanted else 'not one of'} the test vectors")
    for name, tensor in vectors.items():
        expected = _dtype(network, name)
        if tensor.dtype != expected or (
            name in ("images", "labels") and len(tensor) != len(vectors["inputs"])
        ):
            raise ExportError(f"{name} of the test vectors is {tuple(tensor.shape)} of {tensor.dtype}")


def _check_sums(recorded: Any, sums: Mapping[str, list[int]], key: str) -> None:
    if not isinstance(recorded, dict) or set(recorded) != set(sums):
        raise ExportError(f"{key} of the test vectors does not have the manifest's layers")
    for layer, found in sums.items():
        if found != recorded[layer]:
            raise ExportError(
                f"layer {layer}: the test vectors' recorded sums ({key}) are not what the weights give"
            )


def _outcome(
    network: IntegerNetwork, rescaling: str, inputs: Tensor, faults: bool
) -> tuple[Tensor, dict[str, list[int]], int]:
    """(logits, sums of every layer, values that left the field or domain) of one run."""
    run = _fresh(network, rescaling)
    set_faults(run, faults)
    sums: dict[str, list[int]] = {}
    logits, overflows = inputs, 0
    for step in run.steps(inputs):
        overflows += step.overflows
        sums[step.layer.name] = (step.value.flatten(1).sum(1) % network.prime).tolist()
        if step.layer.name == network.plan.output:
            logits = step.value
    return logits, sums, overflows


def _pairs(network: IntegerNetwork) -> Iterator[tuple[str, Tensor]]:
    """(name in the vectors, int64) of every sign test's and rescaling's own pairs."""
    for layer in network.plan.layers:
        if isinstance(layer, ReLU) and _is_masked(network, layer):
            spec = network.specs[layer.name]
            assert isinstance(spec, (TruncatedSign, BitWindow))
            found = window_pairs(spec) if isinstance(spec, BitWindow) else sign_pairs(spec)
        elif _is_masked(network, layer):
            assert isinstance(layer, Rescale)
            found = rescale_pairs(layer.bits, network.prime)
        else:
            continue
        for key, tensor in found.items():
            yield f"pairs.{layer.name}.{key}", tensor


def _check_masks(network: IntegerNetwork, inputs: Tensor, vectors: Mapping[str, Tensor]) -> None:
    for layer in network.plan.layers:
        if _is_masked(network, layer) and not torch.equal(
            _mask(network, layer, len(inputs)), _tensor(vectors, f"mask.{layer.name}").long()
        ):
            raise ExportError(
                f"mask.{layer.name} of the test vectors is not the mask of seed {SEED}, draw {DRAW}"
            )


def _tensor(vectors: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in vectors:
        raise ExportError(f"{name} is missing in the test vectors")
    return vectors[name]


def _is_masked(network: IntegerNetwork, layer: Layer) -> bool:
    """A sign test with masks, or a rescaling that knows another way than the floor."""
    if isinstance(layer, ReLU):
        return not network.specs[layer.name].is_exact
    return isinstance(layer, Rescale) and len(network.plan.format.rescalings) > 1


def _mask(network: IntegerNetwork, layer: Layer, images: int) -> Tensor:
    """The masks at the vectors' address, int64: of Z_p, or of the ring as signed 64-bit patterns."""
    assert isinstance(layer, (ReLU, Rescale))
    draw = ring_masks if network.plan.format.ring else partial(uniform_masks, prime=network.prime)
    return draw((images, *layer.shape), seed=SEED, site=layer.site, draw=DRAW)


def _dtype(network: IntegerNetwork, name: str) -> torch.dtype:
    if name == "images":
        return torch.uint8
    wide = network.plan.format.ring and (name.startswith("mask.") or name.endswith(".mask"))
    return torch.int64 if wide else torch.int32


def _logits_name(rescaling: str, faults: bool) -> str:
    return f"{'logits' if faults else 'exact'}.{rescaling}"


def _fresh(network: IntegerNetwork, rescaling: str) -> IntegerNetwork:
    """A fresh network at the vectors' seed and draw, on the CPU; values that leave the field wrap, as in the
    protocol.
    """
    return IntegerNetwork(network.plan, network.specs, seed=SEED, rescaling=rescaling, overflow="wrap")
