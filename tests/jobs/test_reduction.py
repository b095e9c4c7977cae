"""The reduction section: settings, prices in bytes, removal by rule, a training from the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from circa_train.config.registration import config_folder, register
from circa_train.cost import circuit_of, exact_circuit, relu_bytes
from circa_train.fault import NoFault, TruncatedSign
from circa_train.jobs.build import model_arguments
from circa_train.jobs.job import run
from circa_train.jobs.reduction import build_reduction, relu_prices, removed_by_rule
from circa_train.jobs.settings import ModelConfig
from circa_train.nn.models.mask_files import load_masks, save_masks
from circa_train.training import ReductionSettings

BYTES = ["reduction=snl", "reduction.unit=bytes", "reduction.budget=1000"]


def section(*overrides: str) -> Any:
    register()
    with initialize_config_dir(config_folder(), version_base="1.3"):
        return OmegaConf.to_object(compose("train", list(overrides))).reduction


def test_none_is_no_reduction() -> None:
    assert build_reduction(section(), exact=True) is None
    assert build_reduction(section("reduction=alternate"), exact=False) is None


def test_the_fields_are_those_of_the_settings() -> None:
    asked = section("reduction=snl", "reduction.budget=500", "reduction.granularity=channel")
    assert build_reduction(asked, exact=True) == ReductionSettings(500, granularity="channel")
    assert relu_prices(asked, ["a"]) is None


@pytest.mark.parametrize("accounting", ["tables", "labels"])
def test_bytes_are_those_of_the_cost_model(tmp_path: Path, accounting: str) -> None:
    counted = f"reduction.accounting={accounting}"
    one = section(*BYTES, "reduction.price={kind: truncated_sign, k: 12}", counted)
    expected = relu_bytes(circuit_of(TruncatedSign(12)), accounting)
    assert relu_prices(one, ["a", "b"]) == {"a": expected, "b": expected}
    file = tmp_path / "fault.yaml"
    file.write_text("sites: {a: {kind: truncated_sign, k: 20}, b: {kind: none}}\n")
    each = section(*BYTES, f"reduction.price={{path: {file}}}", counted)
    assert relu_prices(each, ["a", "b"]) == {
        "a": relu_bytes(circuit_of(TruncatedSign(20)), accounting),
        "b": relu_bytes(exact_circuit({"a": TruncatedSign(20), "b": NoFault()}), accounting),
    }


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([*BYTES[::2], "reduction.unit=grams"], "'grams' is not one of relus, bytes"),
        (BYTES, "bytes need the sign test"),
        ([*BYTES[::2], "reduction.price={kind: none}"], "number of ReLUs needs none"),
        ([*BYTES, "reduction.price={kind: nothing}"], "nothing"),
        ([*BYTES, "reduction.price={path: nowhere.yaml}"], "there is no fault file nowhere.yaml"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_loaded(overrides: list[str], said: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        build_reduction(section(*overrides), exact=True)


def test_sign_tests_in_the_network_and_by_channel_are_refused() -> None:
    with pytest.raises(ValueError, match="leave fault=none"):
        build_reduction(section("reduction=snl", "reduction.budget=5"), exact=False)
    channels = section(*BYTES, "reduction.price={kind: truncated_sign, k: [3, 4]}")
    with pytest.raises(ValueError, match="differs from channel to channel"):
        relu_prices(channels, ["a"])


def test_removal_is_the_reduction_of_the_model() -> None:
    assert removed_by_rule(section(), {"name": "resnet8"}) == {"name": "resnet8"}
    given = removed_by_rule(section("reduction=alternate"), {"name": "resnet8"})
    assert given == {"name": "resnet8", "reduction": {"alternate": True}}
    stages = section("reduction=removal", "reduction.stages=[layer1]", "reduction.alternate=[layer2]")
    expected = {"stages": ["layer1"], "alternate": ["layer2"]}
    assert removed_by_rule(stages, {})["reduction"] == expected
    with pytest.raises(ValueError, match="removes nothing"):
        removed_by_rule(section("reduction=removal"), {})
    with pytest.raises(ValueError, match="reduced already"):
        removed_by_rule(section("reduction=alternate"), {"reduction": {"sites": ["relu"]}})


class Splits:
    num_classes, image_size, channels = 4, 16, 1


def test_masks_of_a_file_travel_with_the_models_arguments(tmp_path: Path) -> None:
    mask = {"relu": torch.arange(16) > 3}
    save_masks(tmp_path / "masks.safetensors", mask)
    torch.save(
        {"state_dict": {"conv.weight": torch.zeros(2), "alpha.alphas": (torch.arange(16) > 3).float()[None]}},
        tmp_path / "theirs.pth.tar",
    )
    carried = [
        model_arguments(ModelConfig("resnet8", reduction={"masks": str(tmp_path / name)}), Splits())
        for name in ("masks.safetensors", "theirs.pth.tar")
    ]
    (tmp_path / "masks.safetensors").unlink()
    assert carried[0] == carried[1]
    assert carried[0]["reduction"]["masks"]["relu"]["shape"] == [16]


def test_a_training_from_the_configuration(tmp_path: Path) -> None:
    register()
    overrides = [
        "data=synthetic", "data.name='synthetic:classes=4,size=8,channels=1,images=100'", "model.width=0.25",
        "epochs=4", "batch_size=16", "reduction=snl", "reduction.unit=bytes", "reduction.budget=400000",
        "reduction.price={kind: truncated_sign, k: 12}", "reduction.epochs=1", "reduction.learning_rate=0.3",
        "reduction.interval=1", "reduction.growth=2", f"run.root={tmp_path}", "run.progress=false",
    ]  # fmt: skip
    with initialize_config_dir(config_folder(), version_base="1.3"):
        composed = compose("train", overrides)
    record = run("train", OmegaConf.to_object(composed), tmp_path / "run")["result"]
    price = relu_bytes(circuit_of(TruncatedSign(12)), "labels")
    assert 0 < record["relus"] * price <= 400000
    masks = load_masks(record["masks"])
    assert sum(int(mask.sum()) for mask in masks.values()) == record["relus"]
