from __future__ import annotations

import math
import signal
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from circa_train import TruncatedSign, with_stochastic_relus
from circa_train.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from circa_train.files import file_digest
from circa_train.nn.control import draw_state, stochastic_relus
from circa_train.runs.metrics import JsonLinesTracker, read_metrics, read_summary
from circa_train.runs.tracker import Tracker
from circa_train.training import TrainingSettings, train
from circa_train.training import loop as training_loop
from circa_train.training import states as training_states

TIMING = {"time", "seconds", "images_per_second"}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"augment_crop": 1, "augment_flip": True, "augment_cutout": 2},
    "dropout": {"dropout": 0.5},
    "average and adamw": {"ema_decay": 0.9, "optimizer": "adamw", "warmup_epochs": 1.0},
    "faults, rising": {
        "faulty": True,
        "curriculum": "rising",
        "schedule": "triangular",
        "warmup_epochs": 0.5,
    },
    "faults, random, parts": {
        "faulty": True,
        "curriculum": "random",
        "ema_decay": 0.5,
        "accumulate": 2,
        "clip_norm": 1.0,
    },
}


class InterruptAfter:
    """Raises SIGINT or SIGTERM in this process at the n-th step, as the user or the scheduler would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: int, number: int = signal.SIGINT) -> None:
        take = training_loop.Stepper.take

        def taking(stepper: Any, *args: Any, **kwargs: Any) -> Any:
            loss = take(stepper, *args, **kwargs)
            if kwargs["step"] == step - 1:
                signal.raise_signal(number)
            return loss

        monkeypatch.setattr(training_loop.Stepper, "take", taking)


def untimed(folder: Path) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in row.items() if name not in TIMING} for row in read_metrics(folder)
    ]


def assert_same_state(one: Any, other: Any, place: str = "") -> None:
    """Bitwise, all the way down; times are left out."""
    assert type(one) is type(other), place
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), place
    elif isinstance(one, dict):
        assert list(one) == list(other), place
        for key in one:
            if "seconds" not in str(key):
                assert_same_state(one[key], other[key], f"{place}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), place
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same_state(a, b, f"{place}[{index}]")
    else:
        assert one == other, place


def assert_same_runs(one: Path, other: Path) -> None:
    assert untimed(one) == untimed(other)
    for name in ("last.pt", "best.pt"):
        a, b = load_checkpoint(one / name), load_checkpoint(other / name)
        assert_same_state(a.state_dict, b.state_dict)
        assert_same_state(a.training_state, b.training_state)
        assert a.metadata == b.metadata


@pytest.mark.parametrize("step", [1, 4, 6])
@pytest.mark.parametrize("variant", VARIANTS)
def test_interrupted_and_resumed_run_is_bitwise_the_uninterrupted_one(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: str, step: int
) -> None:
    tiny.run(tmp_path / "whole", **VARIANTS[variant])
    with monkeypatch.context() as patch:
        InterruptAfter(patch, step)
        with pytest.raises(KeyboardInterrupt, match=f"after step {step}"):
            tiny.run(tmp_path / "parts", **VARIANTS[variant])
    torch.rand(7)  # whatever the global generator does in between
    _, result = tiny.run(tmp_path / "parts", **VARIANTS[variant])
    assert result.epochs == 3
    assert_same_runs(tmp_path / "whole", tmp_path / "parts")


def killed_after(monkeypatch: pytest.MonkeyPatch, epochs: int) -> None:
    """Nothing more is written once so many epochs have been validated, as if by kill -9."""
    seen: list[int] = []
    real = training_loop.validate

    def validate(*args: Any, **kwargs: Any) -> Any:
        if len(seen) == epochs:
            raise SystemError("killed")
        seen.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr(training_loop, "validate", validate)


@pytest.mark.parametrize("killed", [1, 2, 3, 4])
def test_states_after_every_other_epoch_give_the_same_training(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: int
) -> None:
    tiny.run(tmp_path / "whole", epochs=5)
    with monkeypatch.context() as patch:
        killed_after(patch, killed)
        with pytest.raises(SystemError):
            tiny.run(tmp_path / "parts", epochs=5, save_every=2)
    last = tmp_path / "parts" / "last.pt"
    assert last.exists() == (killed >= 2)
    if last.exists():
        state = load_checkpoint(last).training_state
        assert state is not None
        assert state["progress"]["epoch"] == killed // 2 * 2
        assert file_digest(last.with_name("best.pt")) == state["best"], "the best of what last.pt knows"
    tiny.run(tmp_path / "parts", epochs=5, save_every=2)
    assert_same_runs(tmp_path / "whole", tmp_path / "parts")
    assert not list((tmp_path / "parts").glob("best.next*"))


def test_ctrl_c_between_two_states_loses_nothing(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.run(tmp_path / "whole")
    with monkeypatch.context() as patch:
        InterruptAfter(patch, 5)
        with pytest.raises(KeyboardInterrupt, match="after step 5"):
            tiny.run(tmp_path / "parts", save_every=3)
    tiny.run(tmp_path / "parts", save_every=3)
    assert_same_runs(tmp_path / "whole", tmp_path / "parts")
    with pytest.raises(ValueError, match="save_every = 0"):
        tiny.run(tmp_path / "none", save_every=0)


def test_sigterm_saves_and_exits_with_its_code(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    InterruptAfter(monkeypatch, 2, signal.SIGTERM)
    with pytest.raises(SystemExit) as leaving:
        tiny.run(tmp_path)
    assert leaving.value.code == 143
    assert load_checkpoint(tmp_path / "last.pt").training_state["progress"]["step"] == 2
    assert signal.getsignal(signal.SIGTERM) is before


def test_signal_during_validation_keeps_the_epochs_training(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.run(tmp_path / "whole")
    validate = training_loop.validate

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return validate(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(training_loop, "validate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tiny.run(tmp_path / "parts")
    progress = load_checkpoint(tmp_path / "parts" / "last.pt").training_state["progress"]
    assert (progress["epoch"], progress["batch"]) == (0, 3)
    tiny.run(tmp_path / "parts")
    assert_same_runs(tmp_path / "whole", tmp_path / "parts")


def test_signal_while_an_epoch_ends_is_not_lost(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        training_states, "save_checkpoint", lambda *args: (save_checkpoint(*args), signal.raise_signal(2))
    )
    with pytest.raises(KeyboardInterrupt):
        tiny.run(tmp_path)


def test_training_outside_the_main_thread_installs_no_handlers(tiny: ModuleType, tmp_path: Path) -> None:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(tiny.run(tmp_path, epochs=1)))
    thread.start()
    thread.join()
    assert results[0][1].epochs == 1


def test_changed_settings_are_refused_by_name(tiny: ModuleType, tmp_path: Path) -> None:
    tiny.run(tmp_path, faulty=True)
    with pytest.raises(CheckpointError, match=r"settings.momentum: 0.9 -> 0.8.*resume=False"):
        tiny.run(tmp_path, faulty=True, momentum=0.8)
    with pytest.raises(CheckpointError, match=r"settings.epochs: 3 -> 4"):
        tiny.run(tmp_path, faulty=True, epochs=4)
    with pytest.raises(CheckpointError, match=r"fault.2.k: 12 -> \(none\)"):
        tiny.run(tmp_path)
    model = with_stochastic_relus(tiny.network(), TruncatedSign(k=12), frac_bits=11, seed=3)
    with pytest.raises(CheckpointError, match=r"fault.2.frac_bits: 12 -> 11"):
        train(
            model,
            tiny.splits(),
            TrainingSettings(batch_size=16, epochs=3, learning_rate=0.05),
            folder=tmp_path,
        )


def test_constant_schedule_can_be_extended(tiny: ModuleType, tmp_path: Path) -> None:
    tiny.run(tmp_path / "whole", epochs=4, schedule="constant")
    tiny.run(tmp_path / "parts", epochs=2, schedule="constant")
    _, result = tiny.run(tmp_path / "parts", epochs=4, schedule="constant")
    assert result.epochs == 4
    one, other = (load_checkpoint(tmp_path / run / "last.pt").state_dict for run in ("whole", "parts"))
    assert_same_state(one, other)
    assert untimed(tmp_path / "whole") == untimed(tmp_path / "parts")


def test_finished_run_is_not_trained_again(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, first = tiny.run(tmp_path)
    monkeypatch.setattr(training_loop.Stepper, "take", lambda *args, **kwargs: pytest.fail("trained again"))
    _, second = tiny.run(tmp_path)
    assert second == first
    assert read_summary(tmp_path) == {
        "best_validation_accuracy": first.best_accuracy,
        "best_epoch": first.best_epoch,
    }


def test_starting_over_replaces_the_run(tiny: ModuleType, tmp_path: Path) -> None:
    tiny.run(tmp_path)
    model = tiny.network()
    settings = TrainingSettings(epochs=1, batch_size=16)
    tracker = JsonLinesTracker(tmp_path)
    train(model, tiny.splits(), settings, folder=tmp_path, tracker=tracker, resume=False)
    assert [row["epoch"] for row in read_metrics(tmp_path)] == [1]


def test_damaged_or_foreign_last_checkpoint_is_refused(tiny: ModuleType, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "last.pt", tiny.network(), {})
    with pytest.raises(CheckpointError, match=r"last.pt has weights but no training state.*resume=False"):
        tiny.run(tmp_path)
    (tmp_path / "last.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"last.pt is damaged"):
        tiny.run(tmp_path)


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
