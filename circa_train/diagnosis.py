"""Golden versus faulty, site by site: where do faults come from, what do they do, which site changes
predictions?

"The encrypted output differs from the plaintext, how do I debug it layer by layer?" is answered by
:func:`compare_activations`; "which layer can bear more truncation?" by :func:`site_sensitivity`. Both leave
the network as it was: modes, switches, and the draws that its sites would make next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from circa_train.bars import bar
from circa_train.data import Batches, ImageSet
from circa_train.evaluation import FIRST_DRAW, class_logits, kept_draws
from circa_train.nn import evaluating, set_draw, set_faults, stochastic_relus, without_faults


@dataclass(frozen=True)
class SiteComparison:
    """One site in a plain and in a faulty pass over the same images.

    Attributes:
        site: qualified name.
        gates: share of outputs that are zero in one of the passes only (by the site's own faults, and by
            those upstream).
        relative_error: norm of the difference of the site's inputs over the norm of the plain one: 0 until
            faults upstream have changed something.
    """

    site: str
    gates: float
    relative_error: float


@dataclass(frozen=True)
class SiteSensitivity:
    """What faults at one site alone do to the answers.

    Attributes:
        site: qualified name.
        changed: share of images whose predicted class changed, averaged over draws.
        lost: accuracy lost against the exact network, in [-1, 1], averaged over draws.
        divergence: Kullback-Leibler divergence, in nats, of the class probabilities from the exact network's,
            averaged over images and draws: a graded measure, that tells sites apart on few images where no
            prediction changes. Small independent errors add up in it, for it is quadratic in small changes of
            the logits.
    """

    site: str
    changed: float
    lost: float
    divergence: float


def compare_activations(model: nn.Module, images: Tensor, draw: int = FIRST_DRAW) -> list[SiteComparison]:
    """Run ``images`` (normalised, (N, C, H, W)) without and with faults, and compare what enters and leaves
    every site.

    The list is in the order of execution: the first site whose inputs differ follows the first that erred.
    """
    plain: dict[str, tuple[Tensor, Tensor]] = {}
    faulty: dict[str, tuple[Tensor, Tensor]] = {}
    relus = stochastic_relus(model)
    passes = plain

    def record(name: str, _module: nn.Module, args: tuple[Any, ...], y: Tensor) -> None:
        passes[name] = (args[0].detach().to(torch.float64, copy=True), y.detach() != 0)

    hooks = [relu.register_forward_hook(partial(record, name)) for name, relu in relus.items()]
    try:
        with evaluating(model), kept_draws(model):
            with without_faults(model):
                model(images)
            passes = faulty
            set_draw(model, draw)
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    rows = []
    for name in relus:
        (z, opened), (other, other_opened) = plain[name], faulty[name]
        norm = z.norm().clamp(min=torch.finfo(torch.float64).tiny)
        rows.append(
            SiteComparison(
                name, float((opened != other_opened).double().mean()), float((other - z).norm() / norm)
            )
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
    sites: Sequence[str] | None = None,
    progress: bool = False,
) -> list[SiteSensitivity]:
    """Switch on the faults of one site at a time and compare the answers with those of the exact network.

    Args:
        model: a converted network, with the sign tests to be compared at its sites.
        image_set: the images, normalised with ``mean`` and ``std``.
        draws: fault draws per site.
        batch_size: images per forward pass.
        first_draw: number of the first draw.
        sites: only these, in this order; None is all of them, in the order of execution.
        progress: show a bar on a terminal, and elsewhere log a line now and then.

    Raises:
        ValueError: for an empty set, no draw, or a site that does not exist.
    """
    if len(image_set) == 0 or draws < 1:
        raise ValueError(f"{len(image_set)} images and draws = {draws}: at least one of each is needed")
    relus = stochastic_relus(model)
    unknown = [name for name in sites or () if name not in relus]
    if unknown:
        raise ValueError(
            f"no stochastic site is called {', '.join(unknown)}; the sites are {', '.join(relus)}"
        )
    batches = Batches(image_set, batch_size, mean=mean, std=std)
    rows = []
    names = list(relus if sites is None else sites)
    with (
        evaluating(model), kept_draws(model), without_faults(model),
        bar(len(names), "sensitivity", "sites", shown=progress) as shown,
    ):  # fmt: skip
        labels = torch.cat([labels for _, labels, _ in batches])
        golden = _logits(model, batches, first_draw)
        for name in names:
            relus[name].faults_enabled = True
            passes = [_logits(model, batches, first_draw + draw) for draw in range(draws)]
            set_faults(model, False)
            rows.append(_compare(name, golden, passes, labels))
            shown.update()
    return rows


def _compare(name: str, golden: Tensor, passes: Sequence[Tensor], labels: Tensor) -> SiteSensitivity:
    exact = golden.log_softmax(1)
    answer = golden.argmax(1)
    right = (answer == labels).double().mean()
    return SiteSensitivity(
        name,
        changed=sum(float((p.argmax(1) != answer).double().mean()) for p in passes) / len(passes),
        lost=sum(float(right - (p.argmax(1) == labels).double().mean()) for p in passes) / len(passes),
        divergence=sum(
            float(F.kl_div(p.log_softmax(1), exact, reduction="batchmean", log_target=True)) for p in passes
        )
        / len(passes),
    )


def _logits(model: nn.Module, batches: Batches, draw: int) -> Tensor:
    """float64 (images, classes) of one draw."""
    logits = []
    for images, _, first in batches:
        set_draw(model, draw, first)
        logits.append(class_logits(model, images).double())
    return torch.cat(logits)
