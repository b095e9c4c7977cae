"""fold_batchnorm=true of an evaluation: the same answers but for rounding, said in the record; refused where
it would do nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from circa_train import build_model
from circa_train.checkpoint import save_checkpoint
from circa_train.jobs.job import run
from circa_train.jobs.settings import DataConfig, EvaluateConfig, ModelConfig, RunConfig
from circa_train.jobs.source import open_source

NETWORK = {"name": "resnet8", "num_classes": 4, "image_size": 16, "width": 0.25}
DATA = {
    "name": "synthetic:classes=4,size=16,images=60",
    "mean": [0.5] * 3, "std": [0.25] * 3, "class_names": list("abcd"),
}  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "c.pt"
    save_checkpoint(path, build_model(**NETWORK, seed=0), {"model": NETWORK, "data": DATA})
    return path


def configured(checkpoint: Path, **values: Any) -> EvaluateConfig:
    from circa_train.config import schema

    return EvaluateConfig(
        checkpoint=str(checkpoint), model=ModelConfig(name="checkpoint"), data=DataConfig(name="checkpoint"),
        fault=schema._of_kind("truncated_sign")(k=12), run=RunConfig(progress=False, device="cpu"), **values,
    )  # fmt: skip


def test_an_evaluation_folds_the_network_and_says_so(checkpoint: Path, tmp_path: Path) -> None:
    records = {}
    for fold in (False, True):
        folder = tmp_path / str(fold)
        run("evaluate", configured(checkpoint, fold_batchnorm=fold, sites=True), folder)
        records[fold] = json.loads((folder / "result.json").read_text())["result"]
    assert [records[fold]["fold_batchnorm"] for fold in (False, True)] == [False, True]
    assert abs(records[True]["accuracy"]["mean"] - records[False]["accuracy"]["mean"]) <= 2 / 12
    sites = {fold: [(site["site"], site["relus"]) for site in records[fold]["sites"]] for fold in records}
    assert sites[True] == sites[False]
    sections = ModelConfig("checkpoint"), DataConfig("checkpoint")
    source = open_source(str(checkpoint), *sections, torch.device("cpu"))
    assert source.folded() is source.folded()
    assert any(isinstance(module, nn.BatchNorm2d) for module in source.network.modules())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in source.folded().network.modules())


def test_a_network_without_any_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plain.py").write_text(
        "from torch import nn\n"
        "def make(num_classes, image_size, in_channels):\n"
        "    return nn.Sequential(nn.Conv2d(in_channels, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(784, 4))\n"
    )
    reference = f"python:{tmp_path / 'plain.py'}:make"
    arguments = {"name": reference, "num_classes": 4, "image_size": 16, "in_channels": 3}
    path = tmp_path / "plain.pt"
    save_checkpoint(path, build_model(**arguments), {"model": arguments, "data": DATA})
    config = configured(path, fold_batchnorm=True)
    config.model = ModelConfig(name=reference)
    with pytest.raises(ValueError, match="no BatchNorm directly follows a convolution; leave it out"):
        run("evaluate", config, tmp_path / "run")


@pytest.mark.parametrize(
    "values", [{"fold_batchnorm": True}, {"precision": "bfloat16"}, {"channels_last": True}]
)
def test_the_integer_network_of_an_export_is_refused(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any]
) -> None:
    monkeypatch.setattr("circa_train.jobs.evaluate.is_export", lambda path: True)
    name, value = next(iter(values.items()))
    with pytest.raises(ValueError, match=f"{name} = {value}.*computes in integers"):
        run("evaluate", configured(checkpoint, **values), tmp_path / "run")
