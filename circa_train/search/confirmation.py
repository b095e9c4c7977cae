"""What test images say of a search's answer. They decide nothing: the answer is found without them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from circa_train.data import DataSplits
from circa_train.search.judging import Judge, Judgement
from circa_train.search.store import Store

#: Standard errors between the exact network's accuracies on two samples of unseen images: less than one pair
#: in seven hundred lies further apart by chance.
_UNLIKELY = 3


def on_test_images(
    make_judge: Callable[..., Judge], splits: DataSplits, answers: Sequence[Judgement]
) -> list[Judgement]:
    """The same allocations on test images, within the whole budget or not."""
    return [make_judge(splits.test, "test", each.choices, others=0)(each.ks) for each in answers]


def seen_before(store: Store) -> tuple[str, ...]:
    """A warning if the exact network is so much better on validation than on test images that it has probably
    seen the former in training.
    """
    (validation,), (test,) = (store.draws(f"{split} exact")[:1] for split in ("validation", "test"))
    here, there = float(validation.double().mean()), float(test.double().mean())
    variance = here * (1 - here) / len(validation) + there * (1 - there) / len(test)
    if here - there <= _UNLIKELY * max(math.sqrt(variance), 1 / min(len(validation), len(test))):
        return ()
    return (
        f"the exact network classifies {100 * here:.1f}% of the validation images right and "
        f"{100 * there:.1f}% of the test images: its weights have probably seen the validation images. It "
        "bears faults better there than elsewhere, so the answer may not hold; let half of the test images "
        "decide and the others confirm (decide_on=test), or keep images out of training",
    )


def overflowed(judges: Iterable[Judge], headroom_bits: int) -> tuple[str, ...]:
    """A warning if candidates were given up because values overflowed, which a protocol does not notice."""
    draws = sum(judge.overflowed for judge in judges)
    if not draws:
        return ()
    return (
        f"{draws} draws of candidates overflowed, and counted as all wrong: the answer may be too careful. "
        "Search again with fault.overflow=wrap, as between two parties, or with fault.headroom_bits above "
        f"{headroom_bits}",
    )
