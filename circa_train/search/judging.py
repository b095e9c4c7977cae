"""Is an allocation of truncated bits within the budget? Decided by repeated draws and the interval of their
mean.

The loss of an allocation is the accuracy of the exact network less its own, on the same images, and its 95%
interval is that of :class:`~circa_train.evaluation.Evaluation`, mirrored. Looking after 5, 10, 20, ... draws,
a candidate is

- *within* the budget as soon as the whole interval is,
- *over* it as soon as the whole interval is,
- *undecided* if neither has happened after the last look; then it is not accepted: what a search promises has
  been shown.

Several looks at one interval err a little more often than one does. All candidates are looked at under the
same draws, which makes comparisons sharper, and the winner's estimate optimistic. For both reasons the answer
is measured on test images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from circa_train.data import ImageSet
from circa_train.evaluation import FIRST_DRAW, Evaluation, evaluate
from circa_train.fault import TruncatedSign
from circa_train.nn import set_specs, stochastic_relus, without_faults
from circa_train.search.settings import SearchSettings
from circa_train.search.store import Store

#: One k per site, in the order of execution.
Allocation = tuple[int, ...]

WITHIN, OVER, UNDECIDED = "within", "over", "undecided"


@dataclass(frozen=True)
class Judgement:
    """An allocation, what was measured of it, and what follows.

    Attributes:
        ks: one k per site.
        evaluation: its accuracies.
        exact: accuracy of the exact network on the same images.
        verdict: ``within``, ``over`` or ``undecided``.
    """

    ks: Allocation
    evaluation: Evaluation
    exact: float
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

    def __str__(self) -> str:
        low, high = self.loss_interval
        return (
            f"{name_of(self.ks)}: loses {100 * self.loss:.2f} points [{100 * low:.2f}, {100 * high:.2f}] "
            f"over {len(self.evaluation.accuracies)} draws: {self.verdict}"
        )


class Judge:
    """Judges allocations on one set of images; each once, the rest from memory or from the store.

    Args:
        network: a converted network, whose sign tests are set as needed.
        images: the images.
        split: their name, for the store and for reports.
        mean, std: normalisation.
        spec: mode and prime of the sign tests.
        settings: budget and draws.
        store: measurements so far.
        report: told of every judgement.
        progress: show bars on a terminal, and elsewhere log a line now and then.
    """

    def __init__(
        self,
        network: nn.Module,
        images: ImageSet,
        split: str,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        spec: TruncatedSign,
        settings: SearchSettings,
        store: Store,
        report: Callable[[str], None],
        progress: bool = False,
    ) -> None:
        self._network, self._images, self._split = network, images, split
        self._mean, self._std, self._progress = mean, std, progress
        self._spec, self._settings, self._store, self._report = spec, settings, store, report
        self._sites = list(stochastic_relus(network))
        self.judged: dict[Allocation, Judgement] = {}
        if not store.accuracies(f"{split} exact"):
            with without_faults(network):
                store.add_accuracy(f"{split} exact", self._evaluate(0))
        self.exact = store.accuracies(f"{split} exact")[0]

    def __call__(self, ks: Allocation) -> Judgement:
        """Judge an allocation."""
        if ks not in self.judged:
            self.judged[ks] = self._judge(ks)
            self._report(f"{self._split}: {self.judged[ks]}")
        return self.judged[ks]

    def specs(self, ks: Allocation) -> dict[str, TruncatedSign]:
        """The sign tests of an allocation by site."""
        return specs_of(self._sites, ks, self._spec)

    def _judge(self, ks: Allocation) -> Judgement:
        key = f"{self._split} {','.join(map(str, ks))}"
        set_specs(self._network, self.specs(ks))
        judgement = None
        for total in self._settings.looks:
            while (done := len(self._store.accuracies(key))) < total:
                self._store.add_accuracy(key, self._evaluate(done))
            measured = Evaluation(tuple(self._store.accuracies(key)[:total]), len(self._images))
            judgement = Judgement(
                ks, measured, self.exact, verdict(measured, self.exact, self._settings.budget)
            )
            if judgement.verdict != UNDECIDED:
                break
        assert judgement is not None
        return judgement

    def _evaluate(self, draw: int) -> float:
        return evaluate(
            self._network,
            self._images,
            mean=self._mean,
            std=self._std,
            draws=1,
            batch_size=self._settings.batch_size,
            first_draw=FIRST_DRAW + draw,
            progress=self._progress,
        ).mean


def verdict(measured: Evaluation, exact: float, budget: float) -> str:
    """Where the interval of the loss lies: ``within`` or ``over`` the budget, or around its edge,
    ``undecided``.
    """
    low, high = measured.interval
    if exact - low <= budget:
        return WITHIN
    return OVER if exact - high > budget else UNDECIDED


def specs_of(sites: Sequence[str], ks: Allocation, spec: TruncatedSign) -> dict[str, TruncatedSign]:
    """The sign tests of an allocation by site, in the mode and field of ``spec``."""
    return {site: TruncatedSign(k, spec.mode, spec.prime) for site, k in zip(sites, ks, strict=True)}


def name_of(ks: Allocation) -> str:
    """``k = 12``, or ``k = 12,12,14`` where sites differ."""
    return f"k = {ks[0]}" if len(set(ks)) == 1 else f"k = {','.join(map(str, ks))}"
