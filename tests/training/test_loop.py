from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from circa_train import TruncatedSign, with_stochastic_relus
from circa_train.checkpoint import load_checkpoint
from circa_train.nn.control import draw_state, stochastic_relus
from circa_train.runs.metrics import read_metrics
from circa_train.runs.tracker import Tracker
from circa_train.training import TrainingSettings, train
from tests.training.tiny import TIMING


def test_non_finite_loss_names_the_step_and_keeps_the_last_state(tiny: ModuleType, tmp_path: Path) -> None:
    tiny.run(tmp_path, epochs=1, schedule="constant")
    kept = (tmp_path / "last.pt").read_bytes()
    model = tiny.network()
    settings = TrainingSettings(epochs=1, batch_size=16, learning_rate=1e30)
    with pytest.raises(
        FloatingPointError, match=r"not finite at step [12] \(epoch 1\).*earlier state.*clip_norm"
    ):
        train(model, tiny.splits(), settings, folder=tmp_path, resume=False)
    assert (tmp_path / "last.pt").read_bytes() == kept


def test_error_of_a_site_is_told_its_step(tiny: ModuleType, tmp_path: Path) -> None:
    model = with_stochastic_relus(tiny.network(), TruncatedSign(k=12), frac_bits=30)
    with pytest.raises(ValueError, match="frac_bits") as refused:
        train(model, tiny.splits(), TrainingSettings(epochs=1, batch_size=16), folder=tmp_path)
    assert refused.value.__notes__ == ["in training step 0, epoch 1"]


def test_metrics_of_an_epoch(tiny: ModuleType, tmp_path: Path) -> None:
    tiny.run(tmp_path, faulty=True, validation_draws=2)
    rows = read_metrics(tmp_path)
    assert [row["step"] for row in rows] == [3, 6, 9]
    sites = {f"fault_rate/{name}" for name in stochastic_relus(tiny.network(faulty=True))}
    wanted = {
        "epoch",
        "train_loss",
        "train_accuracy",
        "validation_loss",
        "validation_accuracy",
        "learning_rate",
    }
    assert set(rows[0]) == {"step"} | TIMING | wanted | sites
    assert all(0 < rows[0][name] < 1 for name in sites)
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]


def test_best_checkpoint_is_the_best_by_validation(tiny: ModuleType, tmp_path: Path) -> None:
    _, result = tiny.run(tmp_path, epochs=6)
    rows = read_metrics(tmp_path)
    best = max(rows, key=lambda row: row["validation_accuracy"])
    checkpoint = load_checkpoint(result.best_checkpoint)
    assert checkpoint.metadata["metrics"]["epoch"] == best["epoch"] == result.best_epoch
    assert result.best_accuracy == best["validation_accuracy"]
    assert checkpoint.metadata["data"] == {
        "name": "tiny",
        "mean": [0.4],
        "std": [0.2],
        "class_names": list("abcd"),
    }
    assert checkpoint.metadata["fault"] is None
    assert checkpoint.training_state is None


def test_fault_specs_are_recorded(tiny: ModuleType, tmp_path: Path) -> None:
    tiny.run(tmp_path, faulty=True, epochs=1)
    metadata = load_checkpoint(tmp_path / "best.pt").metadata
    assert (metadata["fault"]["kind"], metadata["fault"]["k"], metadata["frac_bits"]) == (
        "truncated_sign",
        12,
        12,
    )


def test_draws_are_the_steps(tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw = optimiser step, first image = place in the joined batch, for every micro-batch."""
    seen: list[list[int]] = []
    model = tiny.network(faulty=True)
    next(iter(stochastic_relus(model).values())).register_forward_pre_hook(
        lambda relu, _: seen.append(relu.address.tolist()) if relu.training else None
    )
    settings = TrainingSettings(epochs=2, batch_size=16, accumulate=2)
    train(model, tiny.splits(), settings, folder=tmp_path)
    assert seen == [[step, first] for step in range(6) for first in (0, 8)]
    assert all(state == [6, 0] for state in draw_state(model).values())


def test_parts_of_a_batch_give_the_whole_batchs_step(tiny: ModuleType, tmp_path: Path) -> None:
    whole, _ = tiny.run(tmp_path / "1", faulty=True, batchnorm=False)
    parts, _ = tiny.run(tmp_path / "4", faulty=True, batchnorm=False, accumulate=4)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=0, atol=1e-5)


def test_callers_generator_is_left_alone(tiny: ModuleType, tmp_path: Path) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    tiny.run(tmp_path, dropout=0.5, epochs=1)
    assert torch.equal(torch.rand(3), expected)


def test_frozen_batchnorm_keeps_its_statistics(tiny: ModuleType, tmp_path: Path) -> None:
    before = tiny.network().state_dict()
    after, _ = tiny.run(tmp_path, freeze_batchnorm=True, epochs=1)
    for name in ("1.running_mean", "1.running_var", "1.num_batches_tracked"):
        assert torch.equal(before[name], after[name])
    assert not torch.equal(before["1.weight"], after["1.weight"])


@pytest.mark.parametrize("option", [{"precision": "bfloat16"}, {"channels_last": True}])
def test_precision_and_memory_format_change_little(
    tiny: ModuleType, tmp_path: Path, option: dict[str, Any]
) -> None:
    plain, _ = tiny.run(tmp_path / "plain", epochs=1)
    other, _ = tiny.run(tmp_path / "other", epochs=1, **option)
    for name, value in plain.items():
        assert other[name].dtype == value.dtype
        torch.testing.assert_close(other[name], value, rtol=0.05, atol=0.02)


def test_distillation_pulls_towards_the_teacher(tiny: ModuleType, tmp_path: Path) -> None:
    teacher = tiny.network(batchnorm=False)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.mul_(1.5)
    student = tiny.network(batchnorm=False)
    images = torch.randn(16, 1, 6, 6)

    def distance() -> float:
        with torch.no_grad():
            return float((student.eval()(images).softmax(1) - teacher(images).softmax(1)).abs().mean())

    before = distance()
    settings = TrainingSettings(
        epochs=15, batch_size=16, distillation_weight=1.0, learning_rate=0.02, weight_decay=0.0
    )
    train(student, tiny.splits(), settings, folder=tmp_path, teacher=teacher)
    assert distance() < 0.7 * before


def test_teacher_that_shares_the_students_weights_is_not_moved(tiny: ModuleType, tmp_path: Path) -> None:
    plain = tiny.network()
    student = with_stochastic_relus(plain, TruncatedSign(k=12), frac_bits=12)
    settings = TrainingSettings(epochs=2, batch_size=16, distillation_weight=0.5)
    train(student, tiny.splits(), settings, folder=tmp_path, teacher=plain)
    # A resumption is offered the very same teacher, built afresh.
    again = tiny.network()
    student = with_stochastic_relus(again, TruncatedSign(k=12), frac_bits=12)
    train(student, tiny.splits(), settings, folder=tmp_path, teacher=again)
    assert plain.training


class Counting(Tracker):
    def __init__(self) -> None:
        self.checkpoints: list[str] = []

    def checkpoint(self, path: Any) -> None:
        self.checkpoints.append(Path(path).name)


def test_tracker_is_told_of_the_checkpoints(tiny: ModuleType, tmp_path: Path) -> None:
    tracker = Counting()
    tiny.run(tmp_path, tracker, epochs=1)
    assert tracker.checkpoints == ["best.pt", "last.pt"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 64}, "batch_size = 64 is more than the 48 training images"),
        ({"batch_size": 16, "curriculum": "random"}, "needs a network with stochastic ReLUs"),
        ({"batch_size": 16, "distillation_weight": 0.5}, "no teacher is given"),
    ],
)
def test_what_does_not_fit_is_refused(
    tiny: ModuleType, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train(tiny.network(), tiny.splits(), TrainingSettings(**settings), folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_stochastic_teacher_and_frozen_network_are_refused(tiny: ModuleType, tmp_path: Path) -> None:
    settings = TrainingSettings(batch_size=16, distillation_weight=0.5)
    with pytest.raises(ValueError, match="teacher has stochastic ReLUs"):
        train(tiny.network(), tiny.splits(), settings, folder=tmp_path, teacher=tiny.network(faulty=True))
    frozen: nn.Module = tiny.network().requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable parameter"):
        train(frozen, tiny.splits(), TrainingSettings(batch_size=16), folder=tmp_path)


def test_learning_rate_is_the_one_that_was_used(tiny: ModuleType, tmp_path: Path) -> None:
    tiny.run(tmp_path, learning_rate=0.08)
    expected = [0.08 * 0.5 * (1 + math.cos(math.pi * step / 9)) for step in (2, 5, 8)]
    assert [row["learning_rate"] for row in read_metrics(tmp_path)] == pytest.approx(expected, rel=1e-12)
