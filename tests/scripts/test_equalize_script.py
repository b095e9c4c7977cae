"""``scripts/equalize.py``: a checkpoint like any other, which computes the same and exports the same."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from circa_train import TruncatedSign
from circa_train.checkpoint import load_checkpoint, load_network
from circa_train.jobs.job import Job, work_of
from circa_train.nn import relu_sites
from circa_train.search import fault_file

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


def test_scales_by_channel_go_into_the_weights_and_the_commands_that_are_printed_work(
    checkpoint: Path, job: Callable[..., Job], caplog: pytest.LogCaptureFixture
) -> None:
    """A search and the recipe leave fraction bits by channel, which no export takes: it says what to do, and
    each command that is printed on the way is the next one.
    """
    fault = ("fault=negpass", "fault.k=21", "fault.frac_bits=per_channel")
    some = ("images=40", "draws.count=2", "calibration_images=32", "vectors=2")
    with pytest.raises(ValueError, match="cannot be exported: .* scripts/equalize.py with the same"):
        work_of("export")(job("export", f"checkpoint={checkpoint}", *fault, *some))
    with caplog.at_level(logging.INFO):
        record = work_of("equalize")(job("equalize", f"checkpoint={checkpoint}", *fault, SOME))
    assert isinstance(record["frac_bits"], int)
    assert record["after"] < 0.5 * record["before"], "the scales are those that differ, and not what is left"
    commands = {
        words[0]: words[1:]
        for words in (shlex.split(line.partition(": ")[2]) for line in caplog.messages if "scripts/" in line)
    }
    with pytest.raises(ValueError, match=rf"was rewritten for {record['frac_bits']} .*fault.frac_bits="):
        work_of("export")(job("export", f"checkpoint={record['equalized_checkpoint']}", *fault, *some))
    evaluated = work_of("evaluate")(job("evaluate", *commands["scripts/evaluate.py"], "draws.count=3"))
    caplog.clear()
    exported = work_of("export")(job("export", *commands["scripts/export.py"], *some))
    assert evaluated["accuracy"]["mean"] > 0.8
    assert exported["accuracy"]["integer"]["mean"] > 0.8
    assert "points of accuracy are lost" not in caplog.text


def test_an_export_that_loses_much_says_so(
    checkpoint: Path, job: Callable[..., Job], caplog: pytest.LogCaptureFixture
) -> None:
    arguments = ("fault=poszero", "fault.k=24", "images=40", "draws.count=2", "calibration_images=32")
    work_of("export")(job("export", f"checkpoint={checkpoint}", *arguments, "vectors=2"))
    assert "more than 10 points of accuracy are lost under these sign tests" in caplog.text


def test_bits_by_channel_on_rewritten_weights_are_warned_of(
    checkpoint: Path, job: Callable[..., Job], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    sites = {name: TruncatedSign(12) for name, _ in relu_sites(load_network(checkpoint), (1, 8, 8))}
    file = tmp_path / "fault.yaml"
    file.write_text(fault_file(sites, dict.fromkeys(sites, 14)))
    fault = ("fault=file", f"fault.path={file}")
    record = work_of("equalize")(job("equalize", f"checkpoint={checkpoint}", *fault, SOME))
    evaluated = ("evaluate", f"checkpoint={record['equalized_checkpoint']}", *fault, "draws.count=1")
    work_of("evaluate")(job(*evaluated))
    assert f"was rewritten for {record['frac_bits']} fraction bits at all sites" in caplog.text
    caplog.clear()
    work_of("evaluate")(job(*evaluated, f"fault.frac_bits={record['frac_bits']}"))
    assert "was rewritten" not in caplog.text


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
