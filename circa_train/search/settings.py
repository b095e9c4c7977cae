"""What a search is asked for: plain values, checked when they are put together."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

#: What decides which allocations are accepted. Where a number of gates is given, nothing is tried.
_OF_A_BUDGET = ("budget", "margin", "trials", "max_draws")


@dataclass(frozen=True)
class SearchSettings:
    """Everything that decides the answer of a search, given the network and the data.

    Attributes:
        gates: AND gates per sign test that the answer may have on average; None: as few as are within the
            budget. Given, the exact law alone allocates them, and ``budget``, ``margin``, ``trials`` and
            ``max_draws`` have to stay as they are.
        budget: accuracy that may be lost against the same network with exact ReLUs, in (0, 1); 0.01 is one
            point.
        first_k: the first uniform k that is tried; a good guess saves runs and changes nothing else. With
            ``gates``, no scales are searched for below it: those of this k stay.
        draws: fault draws after which a candidate is looked at first, at least 2. Undecided, it gets twice as
            many, and so on. With ``gates``, how many there are.
        max_draws: draws after which a candidate that is still undecided counts as over the budget.
        margin: how many standard errors of the loss stay free below the budget, so that the answer holds on
            the test images, too (:mod:`circa_train.search.judging`). 2: of answers whose loss is exactly at
            the edge about one in forty will not be confirmed. 0: what holds on the validation images.
        joint: choose the fraction bits of every channel and the mode of every site by the exact law, too.
            False: the network as it is, in one mode.
        headroom_bits: what the fraction bits that are chosen leave free, see :mod:`circa_train.nn.scales`.
        per_site: search for one k per site, too. False: one k for all.
        trials: network runs that the refinement of the per-site answer may take.
        images: training images on which activations and their gradients are recorded.
        batch_size: images per forward pass; changes no result.
    """

    gates: float | None = None
    budget: float = 0.01
    first_k: int = 12
    draws: int = 5
    max_draws: int = 40
    margin: float = 2.0
    joint: bool = True
    headroom_bits: int = 2
    per_site: bool = True
    trials: int = 8
    images: int = 256
    batch_size: int = 256

    def __post_init__(self) -> None:
        if not 0 < self.budget < 1:
            raise ValueError(
                f"budget = {self.budget} is not in (0, 1); 0.01 allows to lose one point of accuracy"
            )
        if self.gates is not None:
            self._check_gates(self.gates)
        elif self.draws > self.max_draws:
            raise ValueError(
                f"draws = {self.draws}, max_draws = {self.max_draws}: need 2 <= draws <= max_draws"
            )
        at_least = (
            ("first_k", 0), ("draws", 2), ("margin", 0), ("headroom_bits", 0), ("trials", 0), ("images", 1),
            ("batch_size", 1),
        )  # fmt: skip
        for name, least in at_least:
            if getattr(self, name) < least:
                raise ValueError(f"{name} = {getattr(self, name)}: needs to be {least} or more")

    def _check_gates(self, gates: float) -> None:
        if not 0 < gates < math.inf:
            raise ValueError(
                f"gates = {gates}: needs to be a number above 0, of AND gates per sign test on average, such "
                "as 11"
            )
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in _OF_A_BUDGET and value != field.default:
                raise ValueError(
                    f"{field.name} = {value} and gates = {gates:g}: for a number of gates the exact law "
                    "alone decides, and nothing is tried; leave out one of the two"
                )

    @property
    def allowed(self) -> float | None:
        """The accuracy that may be lost; None where a number of gates is asked for instead."""
        return self.budget if self.gates is None else None

    @property
    def looks(self) -> list[int]:
        """Numbers of draws after which a candidate is looked at: ``draws``, doubled until ``max_draws``;
        with ``gates``, where there is nothing to decide, ``draws`` alone.
        """
        if self.gates is not None:
            return [self.draws]
        looks, total = [], self.draws
        while total < self.max_draws:
            looks.append(total)
            total *= 2
        return [*looks, self.max_draws]
