"""Test vectors: images, masks and what comes out, so that an implementation in any language can check
itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from circa_train.export.integer import IntegerNetwork
from circa_train.export.layers import ExportError, ReLU, Rescale
from circa_train.export.rescale import RESCALINGS
from circa_train.fault import TruncatedSign, uniform_masks

#: Seed and draw that the recorded masks belong to; readers use the masks and need neither.
SEED, DRAW = 0, 0


def make_vectors(
    network: IntegerNetwork, images: Tensor, labels: Tensor, *, mean: Sequence[float], std: Sequence[float]
) -> tuple[dict[str, Tensor], dict[str, list[int]]]:
    """Run a few images with recorded masks.

    Args:
        network: the network; its own seed, rescaling and draws play no part.
        images: uint8 (n, C, H, W); ``labels`` int64 (n,).
        mean, std: normalisation per channel, for pixels in [0, 1].

    Returns:
        (vectors, sums): ``images`` (uint8) and int32 ``labels``, ``inputs``, ``mask.<layer>`` for every
            truncated sign
        test and every rescaling, ``logits.floor``, ``logits.local``; and per layer the sum modulo p of its
            values for
        each image (floor), to find the first layer that differs.
    """
    images = images.cpu()
    centre, spread = (
        torch.tensor(list(values), dtype=torch.float64).view(1, -1, 1, 1) for values in (mean, std)
    )
    normalised = (images.double() / 255 - centre) / spread
    runs = {rescaling: _with_rescaling(network, rescaling) for rescaling in RESCALINGS}
    inputs = runs["floor"].quantize(normalised)
    vectors = {"images": images, "labels": labels.cpu(), "inputs": inputs}
    for layer in network.plan.layers:
        if isinstance(layer, Rescale) or (
            isinstance(layer, ReLU) and isinstance(network.specs[layer.name], TruncatedSign)
        ):
            shape = (len(images), *layer.shape)
            vectors[f"mask.{layer.name}"] = uniform_masks(
                shape, seed=SEED, site=layer.site, draw=DRAW, prime=network.prime
            )
    sums = {}
    for rescaling, run in runs.items():
        for step in run.steps(inputs):
            if rescaling == "floor":
                sums[step.layer.name] = (step.value.flatten(1).sum(1) % network.prime).tolist()
            if step.layer.name == network.plan.output:
                vectors[f"logits.{rescaling}"] = step.value
    narrow = {name: value if name == "images" else value.to(torch.int32) for name, value in vectors.items()}
    return {name: value.contiguous() for name, value in narrow.items()}, sums


def check_vectors(
    network: IntegerNetwork, vectors: Mapping[str, Tensor], sums: Mapping[str, Sequence[int]]
) -> None:
    """ExportError naming the first layer, mask or logits that a fresh run does not reproduce."""
    inputs = vectors["inputs"].long()
    for rescaling in RESCALINGS:
        run = _with_rescaling(network, rescaling)
        if rescaling == "local":
            _check_masks(
                {f"mask.{name}": mask for name, mask in run.rescale_masks(len(inputs)).items()}, vectors
            )
        else:
            tests = {
                f"mask.{test.site}": test.mask for test in run.sign_tests(inputs) if test.mask is not None
            }
            _check_masks(tests, vectors)
            run = _with_rescaling(network, rescaling)
        for step in run.steps(inputs):
            name = step.layer.name
            if rescaling == "floor" and (step.value.flatten(1).sum(1) % network.prime).tolist() != sums[name]:
                raise ExportError(
                    f"layer {name}: the test vectors' recorded sums are not what the weights give"
                )
            if name == network.plan.output and not torch.equal(
                step.value, vectors[f"logits.{rescaling}"].long()
            ):
                raise ExportError(
                    f"logits.{rescaling} of the test vectors are not what the weights and masks give"
                )


def _check_masks(masks: Mapping[str, Tensor], vectors: Mapping[str, Tensor]) -> None:
    for name, mask in masks.items():
        if name not in vectors or not torch.equal(mask, vectors[name].long()):
            raise ExportError(f"{name} of the test vectors is not the mask of seed {SEED}, draw {DRAW}")


def _with_rescaling(network: IntegerNetwork, rescaling: str) -> IntegerNetwork:
    """A fresh network at the vectors' seed and draw, on the CPU; values that leave the field wrap, as in the
    protocol.
    """
    return IntegerNetwork(network.plan, network.specs, seed=SEED, rescaling=rescaling, overflow="wrap")
