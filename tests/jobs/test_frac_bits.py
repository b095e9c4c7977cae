"""Fraction bits by site and channel through the jobs: chosen, recorded, read again, verified, refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from circa_train.checkpoint import load_checkpoint
from circa_train.fault import TruncatedSign
from circa_train.jobs.evaluate import evaluation_record
from circa_train.jobs.export import export_record
from circa_train.jobs.faults import build_fault, check_fault, headroom_bits
from circa_train.jobs.inputs import input_digests
from circa_train.jobs.job import run
from circa_train.jobs.settings import (
    CheckConfig,
    CheckpointFaultConfig,
    DataConfig,
    EvaluateConfig,
    ExportConfig,
    FileFaultConfig,
    ModelConfig,
    RunConfig,
    TrackerConfig,
    TrainConfig,
    VerifyConfig,
)
from circa_train.jobs.source import Source, open_source
from circa_train.jobs.verify import verification_record
from circa_train.search import fault_file

QUIET = RunConfig(progress=False, device="cpu")
OWN = {"model": ModelConfig(name="checkpoint"), "data": DataConfig(name="checkpoint"), "run": QUIET}


def truncated(k: int = 18, **values: Any) -> Any:
    from circa_train.config import schema

    return schema._of_kind("truncated_sign")(**{"k": k, "frac_bits": "per_channel", **values})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained for an epoch at fraction bits of its own in every channel."""
    folder = tmp_path_factory.mktemp("trained")
    config = TrainConfig(
        model=ModelConfig(name="resnet8", width=0.25),
        data=DataConfig(name="synthetic:classes=3,size=8,channels=1,images=60"),
        fault=truncated(), tracker=TrackerConfig(), run=QUIET, epochs=1, batch_size=16,
    )  # fmt: skip
    run("train", config, folder / "run")
    return folder / "run" / "best.pt"


def opened(checkpoint: Path) -> Source:
    import torch

    return open_source(str(checkpoint), OWN["model"], OWN["data"], torch.device("cpu"))  # type: ignore[arg-type]


def test_training_records_them_and_evaluation_takes_them_over(checkpoint: Path) -> None:
    recorded = load_checkpoint(checkpoint).metadata["frac_bits"]
    assert all(isinstance(bits, list) and len(bits) > 1 for bits in recorded.values())
    assert len({number for bits in recorded.values() for number in bits}) > 1
    config = EvaluateConfig(checkpoint=str(checkpoint), fault=truncated(frac_bits="auto"), sites=True, **OWN)  # type: ignore[arg-type]
    source, plan = opened(checkpoint), build_fault(config.fault)
    record = evaluation_record(source, plan, config)
    assert record["frac_bits"] == recorded
    assert [site["observed"]["values"] > 0 for site in record["sites"]] == [True] * len(recorded)
    refitted = evaluation_record(source, build_fault(truncated(22)), config)["frac_bits"]
    assert refitted != recorded, "per_channel goes by the sign tests that are asked for"


def test_a_file_says_them_for_any_fault(checkpoint: Path, tmp_path: Path) -> None:
    recorded = load_checkpoint(checkpoint).metadata["frac_bits"]
    path = tmp_path / "scales.json"
    path.write_text(json.dumps({"frac_bits": recorded}))
    plan = build_fault(truncated(12, frac_bits=str(path)))
    assert plan.frac_bits == {site: tuple(bits) for site, bits in recorded.items()}
    config = EvaluateConfig(checkpoint=str(checkpoint), fault=truncated(12, frac_bits=str(path)), **OWN)  # type: ignore[arg-type]
    assert evaluation_record(opened(checkpoint), plan, config)["frac_bits"] == plan.frac_bits
    digests = input_digests({"fault": {"frac_bits": str(path)}})
    path.write_text(json.dumps({"frac_bits": 14}))
    assert input_digests({"fault": {"frac_bits": str(path)}}) != digests
    assert build_fault(truncated(12, frac_bits=str(path))).frac_bits == 14
    whole = tmp_path / "fault.yaml"
    assert isinstance(plan.frac_bits, dict)
    whole.write_text(fault_file(dict.fromkeys(recorded, TruncatedSign(9)), plan.frac_bits))
    section = FileFaultConfig(kind="file", path=str(whole))
    assert build_fault(section).frac_bits == plan.frac_bits
    section.frac_bits = "per_channel"
    assert build_fault(section).frac_bits is None


def test_every_site_agrees_with_the_garbled_circuit(checkpoint: Path) -> None:
    for samples in (64, "all"):
        config = VerifyConfig(
            checkpoint=str(checkpoint), fault=truncated(), split="test",
            verify=CheckConfig(samples=samples, images=3), **OWN,  # type: ignore[arg-type]
        )  # fmt: skip
        record, _ = verification_record(config)
        assert record["sites"]
        assert record["mismatches"] == 0


def test_an_export_refuses_them_and_says_what_to_do(checkpoint: Path, tmp_path: Path) -> None:
    for fault in (truncated(), truncated(frac_bits="auto")):
        config = ExportConfig(checkpoint=str(checkpoint), fault=fault, **OWN)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"cannot be exported.*scripts/equalize.py with the same"):
            export_record(config, tmp_path)


def test_refusals_and_defaults(tmp_path: Path) -> None:
    from circa_train.config import schema

    assert (headroom_bits(truncated()), headroom_bits(truncated(frac_bits="auto"))) == (2, 5)
    assert headroom_bits(truncated(headroom_bits=0)) == 0
    with pytest.raises(ValueError, match=r"fault\.frac_bits = 'many' is neither"):
        check_fault(truncated(frac_bits="many"))
    uniform = schema._of_kind("uniform")(rate=0.1, frac_bits="per_channel")
    with pytest.raises(ValueError, match=r"per_channel goes by the law.*'uniform'"):
        check_fault(uniform)
    path = tmp_path / "bad.yaml"
    wrong = {"{}": "has no 'frac_bits'", "frac_bits: {a: [1, 99]}": "site a: frac_bits = 99"}
    for text, message in wrong.items():
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            check_fault(truncated(frac_bits=str(path)))


def test_training_goes_on_with_the_sign_tests_and_fraction_bits_of_its_checkpoint(
    checkpoint: Path, tmp_path: Path
) -> None:
    config = TrainConfig(
        model=ModelConfig(name="checkpoint"), data=DataConfig(name="checkpoint"), run=QUIET, epochs=1,
        batch_size=16, tracker=TrackerConfig(), fault=CheckpointFaultConfig(), checkpoint=str(checkpoint),
    )  # fmt: skip
    run("train", config, tmp_path / "on")
    first, second = (
        load_checkpoint(path).metadata for path in (checkpoint, tmp_path / "on" / "best.pt")
    )
    assert (second["fault"], second["frac_bits"]) == (first["fault"], first["frac_bits"])
    assert second["fault"]["k"] == 18
    with pytest.raises(ValueError, match="fault=checkpoint, but no checkpoint is given; name it: fault="):
        run(
            "train",
            replace(config, checkpoint=None, model=ModelConfig(name="resnet8"), data=DataConfig("digits")),
            tmp_path / "none",
        )
