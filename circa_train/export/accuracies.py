"""What each rescaling does to the accuracy of an integer network: the same images, the same masks of the sign
tests, the difference from the exact floor draw by draw.
"""

from __future__ import annotations

import statistics
from typing import Any

from circa_train.data import ImageSet
from circa_train.evaluation import CONFIDENCE, Evaluation, evaluate, half_width
from circa_train.export.integer import IntegerNetwork


def under_every_rescaling(
    network: IntegerNetwork, images: ImageSet, *, draws: int, seed: int, **options: Any
) -> dict[str, dict[str, Any]]:
    """Accuracy under each rescaling, as JSON values; values that leave the field or the domain wrap, as in
    the protocol, and are counted.

    Args:
        network: the network; its own rescaling and draws play no part.
        images: to classify.
        draws: how many draws of the masks under each.
        seed: of the masks.
        options: of :func:`~circa_train.evaluation.evaluate`: ``mean``, ``std``, ``batch_size``, ``progress``.

    Returns:
        By rescaling: ``mean``, ``low`` and ``high`` of the accuracy over the draws, ``draws``, ``overflows``
        per image and draw, and ``minus_floor``: the mean difference from the floor under the same draws, with
        its 95% interval.
    """
    found: dict[str, tuple[Evaluation, float]] = {}
    for rescaling in network.plan.format.rescalings:
        run = IntegerNetwork(network.plan, network.specs, seed=seed, rescaling=rescaling, overflow="wrap")
        measured = evaluate(run.to(network.device), images, draws=draws, **options)
        passes = len(measured.accuracies) * len(images)
        found[rescaling] = measured, sum(run.overflows.values()) / passes
    floor = found["floor"][0]
    return {
        rescaling: {
            "mean": measured.mean,
            "low": measured.interval[0],
            "high": measured.interval[1],
            "draws": list(measured.accuracies),
            "overflows": overflows,
            "minus_floor": paired_difference(measured, floor),
        }
        for rescaling, (measured, overflows) in found.items()
    }


def paired_difference(a: Evaluation, b: Evaluation) -> dict[str, float]:
    """Mean of a - b, draw by draw, with its 95% interval over draws (Student's t). An exact evaluation stands
    for any number of draws. Where all n differences agree, half the width is that of
    :mod:`circa_train.evaluation`: a draw that differs by one image may still be as likely as
    1 - 0.05^(1 / n).
    """
    n = max(len(a.accuracies), len(b.accuracies))
    left, right = (e.accuracies * n if len(e.accuracies) == 1 else e.accuracies for e in (a, b))
    differences = [x - y for x, y in zip(left, right, strict=True)]
    mean = statistics.fmean(differences)
    if a is b or (a.exact and b.exact):
        return {"mean": mean, "low": mean, "high": mean}
    if n == 1:
        return {"mean": mean, "low": -1.0, "high": 1.0}
    half = half_width(differences) or (1 - (1 - CONFIDENCE) ** (1 / n)) / a.images
    return {"mean": mean, "low": mean - half, "high": mean + half}
