"""A network to an export folder in one call, for callers from Python."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from circa_train.data import Batches, ImageSet
from circa_train.export.bundle import save_export
from circa_train.export.convert import to_integers
from circa_train.fault import SignTest
from circa_train.nn import stochastic_relus


def export_network(
    network: nn.Module,
    folder: str | os.PathLike[str],
    image_set: ImageSet,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    class_names: Sequence[str],
    spec: SignTest | Mapping[str, SignTest] | None = None,
    name: str = "images",
    vectors: int = 20,
    calibration_images: int = 256,
    **options: Any,
) -> str:
    """Write the integer network of ``network``, with test vectors, for a private inference runtime.

    Args:
        network: plain or converted; left as it was.
        folder: to be made; an export folder that is there is replaced.
        image_set: images to calibrate on and to take the test vectors from, both spread evenly over it.
        mean, std: normalisation per channel, for pixels in [0, 1].
        class_names: of the outputs.
        spec: the sign test of all sites, or one per site; None takes those of a converted network.
        name: of the data set, for the manifest.
        vectors: how many test vectors.
        calibration_images: how many images choose the fraction bits and the range report.
        options: of :func:`circa_train.export.to_integers` (``frac_bits``, ``rescaling``, ...).

    Returns:
        The digest that stands for the whole folder.

    Raises:
        ValueError: if there is no spec, or no image.
        ExportError, ConversionError: naming what cannot be exported.
    """
    if spec is None:
        spec = {site: relu.spec for site, relu in stochastic_relus(network).items()}
        if not spec:
            raise ValueError("a plain network has no sign tests: say which, spec=TruncatedSign(k=12)")
    if len(image_set) == 0:
        raise ValueError("the image set is empty; calibration and test vectors need images")
    device = next(network.parameters(), torch.zeros(())).device
    calibration = Batches(_spread(image_set, calibration_images).to(device), 128, mean=mean, std=std)
    conversion = to_integers(network, spec, (images for images, _, _ in calibration), **options)
    shown = _spread(image_set, vectors)
    data = {"name": name, "mean": list(mean), "std": list(std), "class_names": list(class_names)}
    return save_export(folder, conversion, images=shown.images, labels=shown.labels, data=data)


def _spread(images: ImageSet, count: int) -> ImageSet:
    """``count`` images evenly spaced over the set, which may be sorted by class; all of them if there are no
    more.
    """
    if count >= len(images):
        return images
    return images.subset(torch.arange(count) * len(images) // count)
