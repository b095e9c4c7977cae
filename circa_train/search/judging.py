"""Is an allocation of truncated bits within the budget? Decided by repeated draws, the interval of their
mean, and a margin for other images.

The loss of an allocation is the accuracy of the exact network less its own, on the same images, and its 95%
interval over draws is that of :class:`~circa_train.evaluation.Evaluation`, mirrored. A promise is kept on
other images than those that it was made on. So the budget is reduced by a *margin* first. Let d be, per
image, whether the exact network is right, less how often the faulty one is. The loss is the mean of d, and
over n images it errs by sd(d) / sqrt(n); over m other images by sd(d) / sqrt(m). Their difference has a
standard error of sd(d) sqrt(1/n + 1/m), of which the margin is ``settings.margin`` times. Where d is the
same at all n images, their spread says nothing: so the margin is at least 1 - 0.05^(1/n), the share of images
that differ of which none is among n with probability 5%.

Looking after 5, 10, 20, ... draws, a candidate is

- *within* the budget as soon as the whole interval is within what the margin leaves,
- *over* it as soon as the whole interval is over that,
- *undecided* if neither has happened after the last look; then it is not accepted: what a search promises has
  been shown.

All candidates are looked at under the same draws and on the same images, which makes comparisons sharper, and
the winner's estimate optimistic. So the answer is measured on test images, without a margin.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from circa_train.bars import bar
from circa_train.data import Batches, ImageSet
from circa_train.evaluation import FIRST_DRAW, Evaluation, kept_draws, one_draw
from circa_train.fault import TruncatedSign
from circa_train.fixed_point import FixedPointOverflow
from circa_train.nn import without_faults
from circa_train.search.allocation import Allocation
from circa_train.search.choices import Choices
from circa_train.search.settings import SearchSettings
from circa_train.search.store import Store

WITHIN, OVER, UNDECIDED = "within", "over", "undecided"
#: Where no budget was given.
MEASURED = "measured"


@dataclass(frozen=True)
class Judgement:
    """An allocation, what was measured of it, and what follows.

    Attributes:
        ks: one k per site.
        choices: what these k stand for.
        evaluation: its accuracies.
        exact: accuracy of the exact network on the same images.
        margin: what the budget was reduced by.
        verdict: ``within``, ``over`` or ``undecided``; ``measured`` where there is no budget.
    """

    ks: Allocation
    choices: Choices
    evaluation: Evaluation
    exact: float
    margin: float
    verdict: str

    @property
    def within(self) -> bool:
        return self.verdict == WITHIN

    @property
    def loss(self) -> float:
        return self.exact - self.evaluation.mean

    @property
    def loss_interval(self) -> tuple[float, float]:
        low, high = self.evaluation.interval
        return self.exact - high, self.exact - low

    @property
    def specs(self) -> dict[str, TruncatedSign]:
        """The sign tests by site."""
        return self.choices.specs_of(self.ks)

    def __str__(self) -> str:
        low, high = self.loss_interval
        margin = f", margin {100 * self.margin:.2f}" if self.margin else ""
        return (
            f"{name_of(self.ks)}, {self.choices.name}: loses {100 * self.loss:.2f} points "
            f"[{100 * low:.2f}, {100 * high:.2f}]{margin} over {len(self.evaluation.accuracies)} draws: "
            f"{self.verdict}"
        )


class Judge:
    """Judges allocations on one set of images; each once, the rest from memory or from the store.

    Args:
        network: a converted network, whose sign tests and fraction bits are set as needed.
        images: the images.
        split: their name, for the store and for reports.
        choices: what an allocation stands for.
        others: how many other images the verdict is to hold for; 0: for these images only, without a margin.
        mean, std: normalisation.
        settings: budget and draws.
        store: measurements so far.
        report: told of every judgement.
        progress: show bars on a terminal, and elsewhere log a line now and then.

    Attributes:
        judged: what was judged so far.
        exact: accuracy of the exact network.
        overflowed: how many draws overflowed, and were counted as all wrong.
    """

    def __init__(
        self,
        network: nn.Module,
        images: ImageSet,
        split: str,
        choices: Choices,
        *,
        others: int,
        mean: Sequence[float],
        std: Sequence[float],
        settings: SearchSettings,
        store: Store,
        report: Callable[[str], None],
        progress: bool = False,
    ) -> None:
        self._progress = progress
        self._network, self._split, self.choices, self._others = network, split, choices, others
        self._batches = Batches(images, settings.batch_size, mean=mean, std=std)
        self._images = len(images)
        self._settings, self._store, self._report = settings, store, report
        self.judged: dict[Allocation, Judgement] = {}
        self.overflowed = 0
        if not store.draws(f"{split} exact"):
            with without_faults(network):
                store.add_draw(f"{split} exact", self._one_draw(0))
        self._right = store.draws(f"{split} exact")[0].double()
        self.exact = float(self._right.mean())

    def __call__(self, ks: Allocation) -> Judgement:
        """Judge an allocation."""
        if ks not in self.judged:
            self.judged[ks] = self._judge(ks)
            self._report(f"{self._split}: {self.judged[ks]}")
        return self.judged[ks]

    def _judge(self, ks: Allocation) -> Judgement:
        key = f"{self._split} {self.choices.name} {','.join(map(str, ks))}"
        self.choices.put(self._network, ks)
        judgement = None
        for total in self._settings.looks:
            while (done := len(self._store.draws(key))) < total:
                self._store.add_draw(key, self._draw(done))
            draws = torch.stack(self._store.draws(key)[:total]).double()
            measured = Evaluation(tuple(draws.mean(1).tolist()), self._images)
            margin = 0.0
            if self._others:
                margin = margin_of(self._right - draws.mean(0), self._others, self._settings.margin)
            allowed = self._settings.allowed
            left = None if allowed is None else allowed - margin
            judgement = Judgement(
                ks, self.choices, measured, self.exact, margin, verdict(measured, self.exact, left)
            )
            if judgement.verdict != UNDECIDED:
                break
        assert judgement is not None
        return judgement

    def _draw(self, draw: int) -> Tensor:
        """Which images are classified right in one draw: bool (images,). None of them where a value overflows
        that must not: behind many faults activations go further than calibration has seen. Where there is no
        other candidate, because a number of gates was asked for, it is an error.
        """
        try:
            return self._one_draw(draw)
        except FixedPointOverflow as error:
            if self._settings.gates is not None:
                raise FixedPointOverflow(
                    f"with {self._settings.gates:g} AND gates per sign test, {self._split} images: {error}. "
                    "In a search: fault.overflow=wrap, as in a protocol, or fault.headroom_bits above "
                    f"{self._settings.headroom_bits}"
                ) from error
            self.overflowed += 1
            self._report(f"{self._split}: a draw overflows, and counts as all wrong: {error}")
            return torch.zeros(self._images, dtype=torch.bool)

    def _one_draw(self, draw: int) -> Tensor:
        shown = bar(len(self._batches), f"draw {draw}", "batches", shown=self._progress)
        with kept_draws(self._network), shown as seen:
            return one_draw(self._network, self._batches, FIRST_DRAW + draw, seen)


def margin_of(differences: Tensor, others: int, errors: float) -> float:
    """``errors`` standard errors of the difference between the mean of ``differences`` and the mean over
    ``others`` other images, see the module's page; 0 for ``errors`` = 0.
    """
    n = len(differences)
    if errors == 0:
        return 0.0
    spread = float(differences.std()) if n > 1 else 1.0
    return max(errors * spread * math.sqrt(1 / n + 1 / others), 1 - 0.05 ** (1 / n))


def verdict(measured: Evaluation, exact: float, budget: float | None) -> str:
    """Where the interval of the loss lies: ``within`` or ``over`` the budget, or around its edge,
    ``undecided``; ``measured`` without a budget.
    """
    if budget is None:
        return MEASURED
    low, high = measured.interval
    if exact - low <= budget:
        return WITHIN
    return OVER if exact - high > budget else UNDECIDED


def name_of(ks: Allocation) -> str:
    """``k = 12``, or ``k = 12,12,14`` where sites differ."""
    return f"k = {ks[0]}" if len(set(ks)) == 1 else f"k = {','.join(map(str, ks))}"
