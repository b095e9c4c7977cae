"""What a search is asked for: plain values, checked when they are put together."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SearchSettings:
    """Everything that decides the answer of a search, given the network and the data.

    Attributes:
        budget: accuracy that may be lost against the same network with exact ReLUs, in (0, 1); 0.01 is one
            point.
        first_k: the first uniform k that is tried; a good guess saves runs and changes nothing else.
        draws: fault draws after which a candidate is looked at first, at least 2. Undecided, it gets twice as
            many, and so on.
        max_draws: draws after which a candidate that is still undecided counts as over the budget.
        margin: how many standard errors of the loss stay free below the budget, so that the answer holds on
            the test images, too (:mod:`circa_train.search.judging`). 2: of answers whose loss is exactly at
            the edge about one in forty will not be confirmed. 0: what holds on the validation images.
        joint: choose the fraction bits of every channel and the mode of every site by the exact law, too.
            False: the network as it is, in one mode.
        headroom_bits: what the fraction bits that are chosen leave free, see :mod:`circa_train.nn.scales`.
        per_site: search for one k per site, too.
        trials: network runs that the refinement of the per-site answer may take.
        images: training images on which activations and their gradients are recorded.
        batch_size: images per forward pass; changes no result.
    """

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
        if not 2 <= self.draws <= self.max_draws:
            raise ValueError(
                f"draws = {self.draws}, max_draws = {self.max_draws}: need 2 <= draws <= max_draws"
            )
        at_least = (
            ("first_k", 0), ("margin", 0), ("headroom_bits", 0), ("trials", 0), ("images", 1),
            ("batch_size", 1),
        )  # fmt: skip
        for name, least in at_least:
            if getattr(self, name) < least:
                raise ValueError(f"{name} = {getattr(self, name)}: needs to be {least} or more")

    @property
    def looks(self) -> list[int]:
        """Numbers of draws after which a candidate is looked at: ``draws``, doubled until ``max_draws``."""
        looks, total = [], self.draws
        while total < self.max_draws:
            looks.append(total)
            total *= 2
        return [*looks, self.max_draws]
