"""Which ReLUs stay, learned: the law step by step, the budget, the files of masks, the same after a kill."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from circa_train.checkpoint import CheckpointError, load_checkpoint, load_network
from circa_train.nn import build_model
from circa_train.nn.models.kept_relus import decode_mask, relu_shapes
from circa_train.nn.models.mask_files import load_masks
from circa_train.nn.models.reduction import reduce_relus
from circa_train.runs.metrics import read_metrics
from circa_train.training import BudgetNotMet, ReductionSettings, TrainingSettings, train
from circa_train.training.distributed import Ranks
from circa_train.training.linearisation import Linearisation

#: The tiny network has 144 ReLUs at site 2 and 64 at site 4.
ALL = 208
FAST: dict[str, Any] = {"budget": 104, "epochs": 2, "learning_rate": 0.2, "interval": 1, "growth": 1.5}
TIMES = {"time", "seconds", "images_per_second"}


def linearisation(tiny: ModuleType, prices: dict[str, int] | None = None, **settings: Any) -> Linearisation:
    chosen = ReductionSettings(**{**FAST, **settings})
    return Linearisation(
        tiny.network(), chosen, prices, input_shape=(1, 6, 6), steps_per_epoch=5, ranks=Ranks()
    )


def rows(folder: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in TIMES} for row in read_metrics(folder)]


@pytest.mark.parametrize("granularity", ["pixel", "channel"])
def test_a_step_is_the_law_written_out(tiny: ModuleType, granularity: str) -> None:
    """Against Adam and the penalty by autograd, with prices that differ from site to site."""
    prices = {"2": 3, "4": 7}
    law = linearisation(tiny, prices, granularity=granularity, penalty=0.5, budget=200, learning_rate=0.1)
    full = 144 * 3 + 64 * 7
    assert law.full_cost == full
    units = {site: relu.alpha.detach().clone().requires_grad_() for site, relu in law.sites.items()}
    adam = torch.optim.Adam(units.values(), lr=0.1)
    number = sum(a.numel() for a in units.values())
    penalty = 0.5
    for done in range(1, 8):
        gradients = {site: torch.randn(a.shape) / 1000 for site, a in units.items()}
        for site, relu in law.sites.items():
            relu.alpha.grad = gradients[site].clone()
        law.step(done)

        loss = sum((gradients[site] * a).sum() for site, a in units.items())
        costs = {site: prices[site] * (144 if site == "2" else 64) / a.numel() for site, a in units.items()}
        loss = loss + penalty * sum((costs[site] / full * a.abs()).sum() for site, a in units.items())
        adam.zero_grad()
        (number * loss).backward()
        adam.step()
        with torch.no_grad():
            for site, a in units.items():
                a.clamp_(0, 1)
                torch.testing.assert_close(law.sites[site].alpha, a, rtol=1e-5, atol=1e-6)
        relaxed = sum(costs[site] * float(a.detach().double().sum()) for site, a in units.items())
        assert law.relaxed_cost() == pytest.approx(relaxed, rel=1e-6)
        if relaxed > full - (full - 200) * min(done / 10, 1):
            penalty *= 1.5
        assert law.penalty == pytest.approx(penalty)
    assert not law.chosen


def test_the_penalty_rises_above_the_plan_only_and_always_behind_it(tiny: ModuleType) -> None:
    law = linearisation(tiny, budget=8, learning_rate=1e-9)
    for relu in law.sites.values():
        relu.alpha = (relu.alpha.detach() * 0.5).requires_grad_()
    before = law.penalty
    for done in (1, 4):  # half the cost is below the plan
        law._look(done)
    assert law.penalty == before
    law._look(6)
    assert law.penalty == pytest.approx(1.5 * before)
    law._look(20)
    assert law.penalty == pytest.approx(1.5**2 * before)
    assert not law.chosen


def test_the_highest_units_within_the_budget_stay_once_the_relaxed_cost_is(tiny: ModuleType) -> None:
    law = linearisation(tiny, granularity="channel", budget=36 * 2 + 16 + 15)
    first, second = law.sites.values()
    with torch.no_grad():
        first.alpha.copy_(torch.tensor([1.0, 0.3, 1.0, 0.2]).reshape(4, 1, 1))
        second.alpha.copy_(torch.tensor([0.0, 0.1, 0.9, 0.1]).reshape(4, 1, 1))
    law._look(3)  # 90 + 17.6 is more than 103
    assert not law.chosen
    with torch.no_grad():
        first.alpha[3] = 0.0
    law._look(7)  # 100.4
    assert law.start == 7
    assert first.alpha.flatten().tolist() == [1, 0, 1, 0]  # the channel at 0.3 would make it 124
    assert second.alpha.flatten().tolist() == [0, 0, 1, 0]
    assert (law.kept_relus(), law.kept_cost(), law.relaxed_cost()) == (88, 88, 88)
    assert not first.alpha.requires_grad
    law.step(8)  # and nothing moves any more
    assert law.start == 7


def test_a_unit_that_is_the_identity_already_is_not_put_back(tiny: ModuleType) -> None:
    law = linearisation(tiny, budget=100)
    with torch.no_grad():
        for relu in law.sites.values():
            relu.alpha.zero_()
        law.sites["2"].alpha[0] = 0.5
    law._look(1)
    assert law.kept_relus() == 36


@pytest.mark.parametrize("granularity", ["pixel", "channel"])
def test_training_ends_with_a_network_within_the_budget(
    tiny: ModuleType, tmp_path: Path, granularity: str
) -> None:
    model = tiny.network()
    settings = TrainingSettings(epochs=8, batch_size=16, learning_rate=0.02)
    asked = ReductionSettings(**{**FAST, "granularity": granularity})
    result = train(model, tiny.splits(), settings, folder=tmp_path, reduction=asked)
    masks = load_masks(tmp_path / "masks.safetensors")
    assert {site: tuple(mask.shape) for site, mask in masks.items()} == {"2": (4, 6, 6), "4": (4, 4, 4)}
    kept = sum(int(mask.sum()) for mask in masks.values())
    assert result.relus == kept == sum(map(math.prod, relu_shapes(model, (1, 6, 6)).values()))
    assert 0 < kept <= 104
    if granularity == "channel":
        assert all((mask.flatten(1).all(1) | ~mask.flatten(1).any(1)).all() for mask in masks.values())

    about = json.loads((tmp_path / "masks.json").read_text())
    assert (about["kept"], about["relus"], about["settings"]["budget"]) == (kept, ALL, 104)
    assert about["sites"]["4"]["relus"] == 64
    assert load_file(tmp_path / "masks.safetensors")["2"].dtype == torch.bool

    again = reduce_relus(tiny.network(), {"masks": masks}, (1, 6, 6))
    again.load_state_dict(load_checkpoint(tmp_path / "last.pt").state_dict)
    x = torch.randn(4, 1, 6, 6)
    assert torch.equal(again.eval()(x), model.eval()(x))


def test_the_best_weights_are_of_the_reduced_network_and_say_what_it_is(tmp_path: Path) -> None:
    from circa_train.data import load_data

    splits = load_data("synthetic:classes=4,size=8,channels=1,images=100")
    arguments = {
        "name": "resnet8", "num_classes": splits.num_classes, "image_size": 8, "in_channels": splits.channels,
        "width": 0.25, "reduction": {"stages": ["stem"]},
    }  # fmt: skip
    model = build_model(**arguments, seed=0)
    asked = ReductionSettings(budget=400, epochs=1, learning_rate=0.3, interval=1, growth=2.0)
    settings = TrainingSettings(epochs=4, batch_size=16, ema_decay=0.9, distillation_weight=0.5)
    teacher = build_model(**arguments, seed=0)
    result = train(
        model, splits, settings, folder=tmp_path, reduction=asked, teacher=teacher,
        metadata={"model": arguments},
    )  # fmt: skip
    assert result.best_epoch > 0
    best = load_checkpoint(tmp_path / "best.pt").metadata["model"]
    masks = load_masks(tmp_path / "masks.safetensors")
    assert best["reduction"]["stages"] == ["stem"]
    for site, mask in best["reduction"]["masks"].items():
        assert torch.equal(decode_mask(site, mask), masks[site])
    network = load_network(tmp_path / "best.pt")
    shapes = relu_shapes(network, (splits.channels, 8, 8))
    assert sum(math.prod(shape) for shape in shapes.values()) == result.relus <= 400


def test_the_schedule_begins_when_the_masks_are_chosen(tiny: ModuleType, tmp_path: Path) -> None:
    tiny.run(tmp_path, reduction=FAST, epochs=8, learning_rate=0.04)
    start = load_checkpoint(tmp_path / "last.pt").training_state["linearisation"]["start"]
    assert 3 < start < 21
    for row in read_metrics(tmp_path):
        step = row["step"] - 1
        share = (step - start) / (24 - start)
        expected = 0.04 if step < start else 0.04 * 0.5 * (1 + math.cos(math.pi * share))
        assert row["learning_rate"] == pytest.approx(expected)
        assert (row["relus"] <= 104) == (row["step"] >= start)
        assert (row["relus"] == row["relaxed_relu_cost"]) == (row["step"] >= start)


@pytest.mark.parametrize("step", [2, 7, 14])
@pytest.mark.parametrize("variant", [{}, {"ema_decay": 0.9, "accumulate": 2, "clip_norm": 1.0}])
def test_killed_and_resumed_it_chooses_the_same_and_ends_the_same(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, variant: dict[str, Any]
) -> None:
    """As after ``kill -9``: nothing is written when the process goes."""

    class Killed(BaseException):
        pass

    asked: dict[str, Any] = {"reduction": FAST, "epochs": 8, "learning_rate": 0.02, **variant}
    tiny.run(tmp_path / "whole", **asked)
    with monkeypatch.context() as patch:
        take = Linearisation.step

        def dying(self: Linearisation, done: int) -> None:
            take(self, done)
            if done == step:
                raise Killed

        patch.setattr(Linearisation, "step", dying)
        with pytest.raises(Killed):
            tiny.run(tmp_path / "parts", **asked)
    tiny.run(tmp_path / "parts", **asked)
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
    for name in ("masks.safetensors", "masks.json"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    one, other = (load_checkpoint(tmp_path / run / "best.pt") for run in ("parts", "whole"))
    assert one.metadata == other.metadata
    assert all(torch.equal(one.state_dict[key], other.state_dict[key]) for key in other.state_dict)


def test_another_reduction_is_not_resumed_and_another_seed_is_another_choice(
    tiny: ModuleType, tmp_path: Path
) -> None:
    tiny.run(tmp_path / "0", reduction=FAST, epochs=6)
    with pytest.raises(CheckpointError, match=r"reduction.budget: 104 -> 100"):
        tiny.run(tmp_path / "0", reduction={**FAST, "budget": 100}, epochs=6)
    with pytest.raises(CheckpointError, match=r"reduction.prices"):
        tiny.run(tmp_path / "0", reduction=FAST, epochs=6, prices={"2": 1, "4": 1})
    tiny.run(tmp_path / "1", reduction=FAST, epochs=6, seed=1)
    one, other = (load_masks(tmp_path / run / "masks.safetensors") for run in "01")
    assert any(not torch.equal(one[site], other[site]) for site in one)


def test_a_state_of_units_being_chosen_is_no_network(tiny: ModuleType, tmp_path: Path) -> None:
    """Evaluating it would measure the full network under the reduced one's name."""
    settings = TrainingSettings(epochs=3, batch_size=16)
    slow = ReductionSettings(**{**FAST, "learning_rate": 1e-6})
    with pytest.raises(BudgetNotMet, match=r"after 2 of 3 epochs .* cost 208 of 208; the budget is 104"):
        train(
            tiny.network(), tiny.splits(), settings, folder=tmp_path, reduction=slow,
            metadata={"model": {"name": "tiny"}},
        )  # fmt: skip
    assert not (tmp_path / "best.pt").exists()
    with pytest.raises(CheckpointError, match="ReLUs of tiny are being chosen"):
        load_network(tmp_path / "last.pt")


def test_prices_decide_which_site_pays(tiny: ModuleType, tmp_path: Path) -> None:
    """The dearer site loses the larger part of its ReLUs."""
    for name, prices in (("first", {"2": 50, "4": 1}), ("second", {"2": 1, "4": 50})):
        budget = (144 * prices["2"] + 64 * prices["4"]) // 2
        tiny.run(tmp_path / name, reduction={**FAST, "budget": budget, "learning_rate": 0.05}, epochs=10,
                 prices=prices)
    kept = {}
    for name in ("first", "second"):
        masks = load_masks(tmp_path / name / "masks.safetensors")
        kept[name] = masks["2"].float().mean() / (masks["2"].float().mean() + masks["4"].float().mean())
    assert kept["first"] < kept["second"]


@pytest.mark.parametrize(
    ("reduction", "prices", "epochs", "said"),
    [
        ({"budget": 208}, None, 8, "budget = 208 removes nothing: .* cost 208"),
        ({"budget": 15, "granularity": "channel"}, None, 8, r"budget = 15 cannot be met .*channel of 4.* 16"),
        ({"budget": 400}, {"2": 500, "4": 600}, 8, r"cannot be met .*pixel of 2.* 500"),
        ({"budget": 4}, {"2": 5}, 8, "no price for ReLU site 4; there are 2"),
        ({"epochs": 2.5}, None, 3, "plan of 2.5 epochs leaves no epoch of epochs = 3"),
        ({"budget": 0}, None, 8, "budget = 0: needs to be 1 or more"),
        ({"granularity": "row"}, None, 8, "'row' is not one of pixel, channel"),
        ({"growth": 1.0}, None, 8, "growth = 1.0: needs to be above 1"),
        ({"penalty": 0.0}, None, 8, "penalty = 0.0: needs to be above 0"),
        ({"learning_rate": math.nan}, None, 8, "learning_rate = nan"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    tiny: ModuleType, tmp_path: Path, reduction: dict[str, Any], prices: Any, epochs: int, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        tiny.run(tmp_path, reduction={**FAST, **reduction}, prices=prices, epochs=epochs)
    assert not (tmp_path / "last.pt").exists()


def test_a_network_with_sign_tests_is_refused(tiny: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="fault=none"):
        tiny.run(tmp_path, faulty=True, reduction=FAST, epochs=8)
