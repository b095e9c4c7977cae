"""Bars on a terminal, plain lines elsewhere, and a line per epoch of a training."""

from __future__ import annotations

import io
import logging
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from circa_train import bars
from circa_train.data import DataSplits, ImageSet
from circa_train.evaluation import evaluate
from circa_train.training import TrainingSettings, train


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def images(count: int = 24) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 1, 4, 4), generator=generator, dtype=torch.uint8)
    return ImageSet(pixels, torch.arange(count) % 2)


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 2))


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with bars.bar(3, "reading", "pages") as shown:
        shown.update(3)
    assert "reading" in terminal.getvalue()
    with bars.bar(3, "silence", "pages", shown=False) as shown:
        shown.total = 4
        shown.set_postfix(loss="1", refresh=False)
        shown.update(4)
    assert "silence" not in terminal.getvalue()


def test_elsewhere_there_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with caplog.at_level(logging.INFO), bars.bar(100, "reading", "pages", initial=10) as shown:
        shown.set_postfix(loss="0.5", refresh=False)
        for _ in range(90):
            now[0] += 1
            shown.update()
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        "reading: 40 of 100 (pages), loss 0.5; about 60 s to go",
        "reading: 70 of 100 (pages), loss 0.5; about 30 s to go",
    ]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("progress", [None, True, False])
def test_an_epoch_is_one_line_and_no_bar_is_drawn_where_there_is_no_terminal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str],
    progress: bool | None,
) -> None:  # fmt: skip
    splits = DataSplits("tiny", images(), images(6), images(4), ("a", "b"), (0.5,), (0.5,))
    settings = TrainingSettings(epochs=3, batch_size=8)
    with caplog.at_level(logging.INFO):
        train(network(), splits, settings, folder=tmp_path, progress=progress)
        evaluate(network(), images(), mean=[0.5], std=[0.5], progress=bool(progress))
    told = [r.getMessage() for r in caplog.records if r.name.startswith("circa_train")]
    assert [line.split(":")[0] for line in told] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert all("validation accuracy" in line and "training loss" in line for line in told)
    captured = capsys.readouterr()
    assert captured.err == captured.out == ""
