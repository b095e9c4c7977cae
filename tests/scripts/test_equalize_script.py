"""``scripts/equalize.py``: a checkpoint like any other, which computes the same and exports the same."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from circa_train.checkpoint import load_checkpoint, load_network
from circa_train.jobs.job import Job, work_of

SOME = "calibration_images=64"


def test_the_checkpoint_is_like_any_other(
    checkpoint: Path, job: Callable[..., Job], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        record = work_of("equalize")(
            job("equalize", f"checkpoint={checkpoint}", "fault=poszero", "fault.k=20", SOME)
        )
    json.dumps(record, allow_nan=False)
    path = Path(record["equalized_checkpoint"])
    assert record["after"] < 0.5 * record["before"]
    assert all(row["free"] == row["channels"] for row in record["sites"])
    assert "scripts/evaluate.py" in caplog.text
    assert "fault=poszero fault.k=20" in caplog.text
    assert "do not fine-tune it" in caplog.text
    ours, theirs = load_checkpoint(path), load_checkpoint(checkpoint)
    assert list(ours.state_dict) == list(theirs.state_dict)
    assert ours.metadata["frac_bits"] == 16
    assert ours.metadata["equalized"]["checkpoint"] == str(checkpoint)
    assert ours.metadata["equalized"]["fault"] == {
        "kind": "truncated_sign", "k": 20, "mode": "poszero", "prime": 2138816513,
    }  # fmt: skip
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(load_network(path)(images), load_network(checkpoint)(images))

    with pytest.raises(ValueError, match="is rewritten already; equalize .*best.pt"):
        work_of("equalize")(job("equalize", f"checkpoint={path}"))
    accuracies = []
    for file in (checkpoint, path):
        found = work_of("evaluate")(
            job("evaluate", f"checkpoint={file}", "fault=poszero", "fault.k=20", "draws.count=3")
        )
        assert found["frac_bits"] == 16
        accuracies.append(found["accuracy"]["mean"])
        assert found["baseline_accuracy"] > 0.8
    assert accuracies[1] > accuracies[0] + 0.2, "2^20 units are 16.0: as it is, nothing is left"


def test_export_agrees(checkpoint: Path, job: Callable[..., Job]) -> None:
    """The integer network of the rewritten checkpoint computes as its float network does."""
    options = ("fault=poszero", "fault.k=12")
    record = work_of("equalize")(job("equalize", f"checkpoint={checkpoint}", *options, SOME))
    exported = work_of("export")(
        job(
            "export", f"checkpoint={record['equalized_checkpoint']}", *options, "images=30", "draws.count=2",
            "calibration_images=32", "vectors=2",
        )
    )  # fmt: skip
    accuracy = exported["accuracy"]
    assert exported["integer_error"] < 0.05
    assert abs(accuracy["difference"]["mean"]) <= 0.04, "30 images: one of them may change its class"
    assert abs(accuracy["integer"]["mean"] - accuracy["exact"]) <= 0.07


def test_fine_tuning_it_is_warned_of(
    checkpoint: Path, job: Callable[..., Job], caplog: pytest.LogCaptureFixture
) -> None:
    record = work_of("equalize")(
        job("equalize", f"checkpoint={checkpoint}", "fault.k=12", "calibration_images=8")
    )
    work_of("train")(
        job(
            "train", f"checkpoint={record['equalized_checkpoint']}", "model=checkpoint", "data=checkpoint",
            "epochs=1", "data.limit=32", "batch_size=16",
        )
    )  # fmt: skip
    assert "was rewritten by equalize, and trains badly" in caplog.text


def test_exact_relus_are_refused(checkpoint: Path, job: Callable[..., Job]) -> None:
    with pytest.raises(ValueError, match="exact ReLUs suffer at no scale"):
        work_of("equalize")(job("equalize", f"checkpoint={checkpoint}", "fault=none"))
