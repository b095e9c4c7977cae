"""Golden versus faulty, site by site: where do faults come from, what do they do, which site changes predictions?

"The encrypted output differs from the plaintext, how do I debug it layer by layer?" is answered by
:func:`compare_activations`; "which layer can bear more truncation?" by :func:`site_sensitivity`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

from circa_train.data import Batches, ImageSet
from circa_train.evaluation import FIRST_DRAW, predict
from circa_train.nn.control import evaluating, set_draw, set_faults, site_inputs, stochastic_relus, without_faults


@dataclass(frozen=True)
class SiteComparison:
    """One site in a plain and in a faulty pass over the same images.

    Attributes:
        site: qualified name.
        gates: share of gates that differ between the passes (by its own faults, and by those upstream).
        relative_error: norm of the difference of the site's inputs over the norm of the plain one: 0 until faults upstream
            have changed something.
    """

    site: str
    gates: float
    relative_error: float


@dataclass(frozen=True)
class SiteSensitivity:
    """What faults at one site alone do to the predictions.

    Attributes:
        site: qualified name.
        changed: share of images whose predicted class changed, averaged over draws.
        lost: accuracy lost against the exact network, in [-1, 1], averaged over draws.
    """

    site: str
    changed: float
    lost: float


def compare_activations(model: nn.Module, images: Tensor, draw: int = FIRST_DRAW) -> list[SiteComparison]:
    """Run ``images`` (normalised, (N, C, H, W)) without and with faults, and compare what enters every site.

    The list is in the order of execution: the first site whose inputs differ follows the first that erred.
    """
    plain: dict[str, Tensor] = {}
    faulty: dict[str, Tensor] = {}
    opened: dict[str, Tensor] = {}
    relus = stochastic_relus(model)
    with evaluating(model):
        with without_faults(model), site_inputs(model, plain.__setitem__):
            model(images)
        hooks = [
            relu.register_forward_hook(lambda _, args, y, name=name: opened.__setitem__(name, (y != 0) | torch.signbit(y)))
            for name, relu in relus.items()
        ]
        try:
            set_draw(model, draw)
            with site_inputs(model, faulty.__setitem__):
                model(images)
        finally:
            for hook in hooks:
                hook.remove()
    rows = []
    for name in relus:
        difference = (faulty[name].double() - plain[name].double()).norm()
        norm = plain[name].double().norm().clamp(min=torch.finfo(torch.float64).tiny)
        rows.append(
            SiteComparison(name, float((opened[name] != (plain[name] > 0)).double().mean()), float(difference / norm))
        )
    return rows


def site_sensitivity(
    model: nn.Module,
    image_set: ImageSet,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    draws: int = 1,
    batch_size: int = 256,
    first_draw: int = FIRST_DRAW,
    progress: bool = False,
) -> list[SiteSensitivity]:
    """Switch on the faults of one site at a time and compare the predictions with those of the exact network."""
    relus = stochastic_relus(model)
    batches = Batches(image_set, batch_size, mean=mean, std=std)
    rows = []
    before = {name: relu.faults_enabled for name, relu in relus.items()}
    try:
        set_faults(model, False)
        labels = torch.cat([labels for _, labels, _ in batches])
        golden = _predictions(model, batches, first_draw)
        for name, relu in tqdm(relus.items(), desc="sites", disable=not progress, leave=False):
            relu.faults_enabled = True
            passes = [_predictions(model, batches, first_draw + draw) for draw in range(draws)]
            relu.faults_enabled = False
            changed = sum(float((p != golden).double().mean()) for p in passes) / draws
            lost = sum(float((golden == labels).double().mean() - (p == labels).double().mean()) for p in passes) / draws
            rows.append(SiteSensitivity(name, changed, lost))
    finally:
        for name, relu in relus.items():
            relu.faults_enabled = before[name]
    return rows


def _predictions(model: nn.Module, batches: Batches, draw: int) -> Tensor:
    predictions = []
    with evaluating(model):
        for images, _, first in batches:
            set_draw(model, draw, first)
            predictions.append(predict(model, images))
    return torch.cat(predictions)
