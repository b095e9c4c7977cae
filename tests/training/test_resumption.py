"""A training that is cut off goes on as if it had not been: by Ctrl-C, SIGTERM and kill, at every place."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from circa_train import TruncatedSign, with_stochastic_relus
from circa_train.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from circa_train.files import file_digest
from circa_train.runs.metrics import JsonLinesTracker, read_metrics, read_summary
from circa_train.training import TrainingSettings, train
from circa_train.training import loop as training_loop
from circa_train.training import states as training_states
from tests.training.tiny import TIMING

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
