"""Masks over ReLU sites: the shapes they must have, and first masks to start from.

A set of masks is {site name: bool tensor of one image's activation}; True keeps the ReLU. ``reduction.py``
applies them, ``mask_files.py`` stores them, training can learn them. Inside a JSON document a mask is
``encode_mask``'s dict: its bits, packed, deflated, base64.
"""

from __future__ import annotations

import base64
import binascii
import math
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from circa_train.nn.module_tree import kept_modes

GRANULARITIES = ("pixel", "channel")


def relu_shapes(model: nn.Module, input_shape: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """{name of nn.ReLU: shape of its input for one image}, in the order they run, for an input of
    ``input_shape``.

    Found by running the model once on zeros in evaluation mode, which changes nothing in it. ValueError if
    one module is called at several places: such a ReLU has no shape of its own and cannot be reduced in part.
    """
    weight = next(model.parameters(), torch.zeros(()))
    shapes: dict[str, tuple[int, ...]] = {}

    def note(site: str, values: Tensor) -> None:
        if site in shapes:
            raise ValueError(
                f"ReLU {site!r} is called at several places, so that its parts cannot be told apart; "
                "use a network with one nn.ReLU per site (resnet18, resnet32, vgg16, ...)"
            )
        shapes[site] = tuple(values.shape[1:])

    _visit_relu_inputs(model, torch.zeros(1, *input_shape, dtype=weight.dtype, device=weight.device), note)
    return shapes


def _visit_relu_inputs(model: nn.Module, images: Tensor, visit: Callable[[str, Tensor], None]) -> None:
    """Call ``visit(site, input)`` at every call of every nn.ReLU, in evaluation mode; the model is left as it
    was.
    """

    def hook(site: str) -> Callable[..., None]:
        return lambda _, args: visit(site, args[0])

    handles = [
        module.register_forward_pre_hook(hook(site))
        for site, module in model.named_modules()
        if isinstance(module, nn.ReLU)
    ]
    try:
        with kept_modes(model), torch.no_grad():
            model.eval()(images)
    finally:
        for handle in handles:
            handle.remove()


def random_masks(
    model: nn.Module, input_shape: Sequence[int], keep: float, *, granularity: str = "pixel", seed: int = 0
) -> dict[str, Tensor]:
    """Masks that keep a random fraction ``keep`` of all ReLUs of the network: the baseline every method must
    beat.

    ``granularity`` "pixel" draws single elements, "channel" whole channels (as many elements as come nearest
    to, and not above, the fraction). The same arguments give the same masks.
    """
    generator = torch.Generator().manual_seed(seed)
    shapes = relu_shapes(model, input_shape)
    scores = {
        site: torch.rand(_score_shape(shape, granularity), generator=generator)
        for site, shape in shapes.items()
    }
    return _keep_highest(scores, shapes, keep)


def magnitude_masks(
    model: nn.Module, batches: Iterable[Any], keep: float, *, granularity: str = "pixel"
) -> dict[str, Tensor]:
    """Masks that keep the ReLUs which change their input most: the largest mean of max(0, -z) over the
    images.

    That mean is what replacing the ReLU by the identity adds to the activation. ``batches`` yields image
    tensors, or tuples that begin with one, on the model's device. Whole channels are ranked by their mean per
    element.
    """
    totals: dict[str, Tensor] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    images_seen = 0

    def add(site: str, values: Tensor) -> None:
        totals[site] += values.neg().clamp_(min=0).sum(0, dtype=torch.float64).cpu()

    for batch in batches:
        images = batch if isinstance(batch, Tensor) else batch[0]
        if not shapes:
            shapes = relu_shapes(model, images.shape[1:])
            totals = {site: torch.zeros(shape, dtype=torch.float64) for site, shape in shapes.items()}
        _visit_relu_inputs(model, images, add)
        images_seen += len(images)
    if images_seen == 0:
        raise ValueError("magnitude_masks needs at least one batch of images")
    scores = {}
    for site, shape in shapes.items():
        scored = _score_shape(shape, granularity)
        scores[site] = totals[site] if scored == shape else totals[site].flatten(1).mean(1).reshape(scored)
    return _keep_highest(scores, shapes, keep)


def _score_shape(shape: tuple[int, ...], granularity: str) -> tuple[int, ...]:
    if granularity not in GRANULARITIES:
        raise ValueError(f"granularity must be one of {', '.join(GRANULARITIES)}, not {granularity!r}")
    return shape if granularity == "pixel" else (shape[0], *[1] * (len(shape) - 1))


def _keep_highest(
    scores: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], keep: float
) -> dict[str, Tensor]:
    """The units of highest score that make up at most a fraction of all elements."""
    if not 0 <= keep <= 1:
        raise ValueError(f"keep must be a fraction in [0, 1], not {keep!r}")
    sizes = {site: math.prod(shapes[site]) // score.numel() for site, score in scores.items()}
    elements = sum(math.prod(shapes[site]) for site in scores)
    kept = keep_highest(scores, sizes, math.floor(keep * elements + 0.5))
    return {site: mask.expand(shapes[site]).clone() for site, mask in kept.items()}


def keep_highest(
    scores: Mapping[str, Tensor], costs: Mapping[str, int], allowed: int
) -> dict[str, Tensor]:
    """Keep units in falling order of score, across all sites, until the next would cost too much; of equal
    scores those that come first.

    Args:
        scores: of the units, by site.
        costs: of one unit, by site.
        allowed: what all kept units may cost.
    """
    flat = torch.cat([score.flatten() for score in scores.values()])
    each = torch.cat([torch.full((score.numel(),), costs[site]) for site, score in scores.items()])
    order = torch.argsort(flat, descending=True, stable=True).cpu()
    kept = torch.zeros(len(flat), dtype=torch.bool)
    kept[order[each[order].cumsum(0) <= allowed]] = True
    parts = kept.split([score.numel() for score in scores.values()])
    return {
        site: part.reshape(score.shape).to(score.device)
        for (site, score), part in zip(scores.items(), parts, strict=True)
    }


def as_bool(site: str, mask: Tensor) -> Tensor:
    """The mask as a bool tensor. ValueError names the site if a value is neither 0 nor 1."""
    if mask.dtype == torch.bool:
        return mask
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError(f"the mask of ReLU site {site!r} has values other than 0 and 1; threshold it first")
    return mask != 0


def encode_mask(mask: Tensor) -> dict[str, Any]:
    """A bool tensor as a JSON-readable dict: {"shape": [...], "bits": base64 of the deflated bits, C
    order}.
    """
    bits = np.packbits(mask.cpu().numpy().reshape(-1))
    return {
        "shape": list(mask.shape),
        "bits": base64.b64encode(zlib.compress(bits.tobytes(), 9)).decode("ascii"),
    }


def decode_mask(site: str, value: Any) -> Tensor:
    """The bool tensor of ``encode_mask``'s dict, or of a tensor of zeros and ones; ``site`` is for the
    message.
    """
    if isinstance(value, Tensor):
        return as_bool(site, value)
    try:
        shape = tuple(int(size) for size in value["shape"])
        count = math.prod(shape)
        if min(shape, default=1) < 0:
            raise ValueError(f"a negative size in the shape {shape}")
        # The length is known, so a small hostile string cannot unfold into gigabytes.
        packed = zlib.decompressobj().decompress(
            base64.b64decode(value["bits"], validate=True), (count + 7) // 8 + 1
        )
        if len(packed) != (count + 7) // 8:
            raise ValueError(f"{len(packed)} bytes for {count} elements")
    except (KeyError, TypeError, ValueError, zlib.error, binascii.Error) as error:
        raise ValueError(
            f"the mask of ReLU site {site!r} is not what encode_mask writes ({error})"
        ) from error
    bits = np.unpackbits(np.frombuffer(packed, dtype=np.uint8), count=count)
    return torch.from_numpy(bits.astype(bool)).reshape(shape)
