"""Is an allocation within the budget? Verdicts, margins, and draws that overflow."""

from __future__ import annotations

import pytest
import torch

from circa_train import NoFault, with_stochastic_relus
from circa_train.evaluation import Evaluation
from circa_train.fixed_point import FixedPointOverflow
from circa_train.nn.control import stochastic_relus
from circa_train.nn.site_values import site_values
from circa_train.search import SearchSettings
from circa_train.search import judging as judging_module
from circa_train.search.choices import as_it_is
from circa_train.search.confirmation import overflowed, seen_before
from circa_train.search.judging import OVER, UNDECIDED, WITHIN, margin_of, verdict
from circa_train.search.store import Store
from tests.search.levels import POSZERO, SETTINGS, Levels, make_splits


def test_verdicts() -> None:
    steady = (0.90, 0.90, 0.91, 0.90)
    assert verdict(Evaluation(steady, 1000), exact=0.905, budget=0.02) == WITHIN
    assert verdict(Evaluation(steady, 1000), exact=0.99, budget=0.02) == OVER
    assert verdict(Evaluation(steady, 1000), exact=0.9225, budget=0.02) == UNDECIDED
    assert verdict(Evaluation((0.5,), 1000), exact=0.99, budget=0.02) == UNDECIDED, "one draw says nothing"
    assert verdict(Evaluation((0.9, 0.9), 10), exact=0.9, budget=0.01) == UNDECIDED, (
        "agreement of two leaves room"
    )


def test_a_draw_that_overflows_counts_as_all_wrong_and_ends_nothing() -> None:
    """The validation images reach eight times as far as what was recorded, and beyond the field."""
    splits, lines = make_splits(), list[str]()
    network = with_stochastic_relus(Levels(), NoFault(), frac_bits=32, seed=3).eval()
    seen = site_values(network, [splits.validation.images.float() / 255 / 8])
    judge = judging_module.Judge(
        network, splits.validation, "validation", as_it_is(network, seen, POSZERO), others=100,
        mean=splits.mean, std=splits.std, settings=SETTINGS, store=Store(), report=lines.append,
    )  # fmt: skip
    judged = judge((12, 12, 12))
    assert judged.verdict == OVER
    assert judged.evaluation.mean == 0.0
    assert any("a draw overflows, and counts as all wrong: site main" in line for line in lines)
    assert {relu.settings.overflow for relu in stochastic_relus(network).values()} == {"raise"}
    assert judge.overflowed == len(judged.evaluation.accuracies)
    (warning,) = overflowed({judge}, 2)
    assert "fault.overflow=wrap" in warning
    judge.overflowed = 0
    assert overflowed({judge}, 2) == ()


def test_with_a_number_of_gates_a_draw_that_overflows_is_an_error_with_a_remedy() -> None:
    """There is no other candidate, and an accuracy of nought would say nothing."""
    splits = make_splits()
    network = with_stochastic_relus(Levels(), NoFault(), frac_bits=32, seed=3).eval()
    seen = site_values(network, [splits.validation.images.float() / 255 / 8])
    judge = judging_module.Judge(
        network, splits.validation, "validation", as_it_is(network, seen, POSZERO), others=0,
        mean=splits.mean, std=splits.std, settings=SearchSettings(gates=11), store=Store(),
        report=lambda _: None,
    )  # fmt: skip
    assert judge.exact > 0, "exact ReLUs see no field"
    with pytest.raises(FixedPointOverflow, match=r"with 11 AND gates .* site main.*fault.overflow=wrap"):
        judge((12, 12, 12))


def test_the_margin_is_what_other_images_may_add() -> None:
    """Of 2000 pairs of samples, the loss on the other one exceeds that on the first plus 2 errors in 2.3%."""
    generator = torch.Generator().manual_seed(0)
    exceeded = 0
    for _ in range(2000):
        lost, gained = (torch.rand(1500, generator=generator) < share for share in (0.1, 0.06))
        first, other = (lost.double() - gained.double()).split([500, 1000])
        exceeded += float(other.mean()) > float(first.mean()) + margin_of(first, 1000, 2.0)
    assert 12 <= exceeded <= 80  # 46 expected, 5 sigma of the binomial: 34
    assert margin_of(torch.zeros(100), 100, 2.0) == pytest.approx(1 - 0.05**0.01)
    assert margin_of(torch.zeros(100), 100, 0.0) == 0.0


def test_validation_images_that_were_trained_on_are_warned_about() -> None:
    def store(validation: float, test: float) -> Store:
        made = Store()
        for split, share in (("validation", validation), ("test", test)):
            made.add_draw(f"{split} exact", torch.arange(1000) < 1000 * share)
        return made

    assert seen_before(store(0.9, 0.88)) == ()
    (warning,) = seen_before(store(0.95, 0.88))
    assert "95.0% of the validation images" in warning
    assert "88.0%" in warning
