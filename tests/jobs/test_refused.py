"""What a refused job leaves: nothing, and what was there before as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from circa_train import build_model
from circa_train.checkpoint import save_checkpoint
from circa_train.files import missing_folders, remove_empty_folders, shown_path
from circa_train.jobs import evaluate as evaluate_job
from circa_train.jobs.job import run
from circa_train.jobs.settings import (
    DataConfig,
    EvaluateConfig,
    ExportConfig,
    FaultConfig,
    ModelConfig,
    RunConfig,
    SearchConfig,
    TrackerConfig,
    TrainConfig,
    VerifyConfig,
)
from circa_train.runs import FAILURE, RESULT

NETWORK = {"name": "resnet8", "num_classes": 4, "image_size": 16, "width": 0.25}
DATA = {
    "name": "synthetic:classes=4,size=16,images=60",
    "mean": [0.5] * 3, "std": [0.25] * 3, "class_names": list("abcd"),
}  # fmt: skip
QUIET: dict[str, Any] = {"progress": False, "device": "cpu", "threads": 1}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "c.pt"
    save_checkpoint(path, build_model(**NETWORK), {"model": NETWORK, "data": DATA})
    return path


def asked(kind: str, source: Path | str, **values: Any) -> Any:
    """A job's configuration, without faults; dotted names go into its sections."""
    makers: dict[str, Any] = {
        "evaluate": EvaluateConfig, "verify": VerifyConfig, "search": SearchConfig, "export": ExportConfig,
    }  # fmt: skip
    if kind == "train":
        config: Any = TrainConfig(
            model=ModelConfig(name="resnet8", width=0.25), data=DataConfig(name=DATA["name"]), epochs=1,
            fault=FaultConfig(kind="none"), run=RunConfig(**QUIET), batch_size=16,
        )  # fmt: skip
    else:
        config = makers[kind](
            checkpoint=str(source), model=ModelConfig(name="checkpoint"), run=RunConfig(**QUIET),
            data=DataConfig(name="checkpoint"), fault=FaultConfig(kind="none"),
        )  # fmt: skip
    for key, value in values.items():
        *sections, last = key.split("__")
        place = config
        for section in sections:
            place = getattr(place, section)
        setattr(place, last, value)
    return config


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("train", {"epochs": 0}),
        ("train", {"batch_size": 1000}),
        ("train", {"run__device": "nonsense"}),
        ("train", {"tracker__name": "tensorboard"}),
        ("train", {"seed": -1}),
        ("train", {"run__save_every": 0}),
        ("train", {"data__name": "nonsense"}),
        ("train", {"model__name": "resnet9"}),
        ("evaluate", {"checkpoint": "nowhere.pt"}),
        ("evaluate", {"split": "tests"}),
        ("evaluate", {"draws__count": 0}),
        ("evaluate", {"batch_size": 0}),
        ("evaluate", {"fault__overflow": "ignore"}),
        ("evaluate", {"rescaling": "local"}),
        ("evaluate", {"precision": "float16"}),
        ("evaluate", {"tracker__name": "wandb", "tracker__project": "team/project"}),
        ("verify", {"verify__transport": "pigeon"}),
        ("verify", {"verify__samples": "some"}),
        ("verify", {"verify__images": 10_000}),
        ("verify", {}),  # there is no circuit for no faults
        ("search", {}),  # nor a k to search for
        ("search", {"budget": -1.0}),
        ("export", {"images": 0}),
        ("export", {"rescaling": "nonsense"}),
        ("export", {"draws__count": 0}),
    ],
)
def test_a_refused_job_leaves_nothing(
    tmp_path: Path, checkpoint: Path, kind: str, values: dict[str, Any]
) -> None:
    with pytest.raises((ValueError, OSError)):
        run(kind, asked(kind, checkpoint, **values), tmp_path / "runs" / kind / "x")
    assert list(tmp_path.iterdir()) == []


def test_images_that_a_network_cannot_take_are_named_before_training(tmp_path: Path) -> None:
    """Else torch says which matrices do not fit, in a traceback through somebody's own network."""
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def net(num_classes, outputs=4, size=8):\n"
        "    ends = nn.Linear(3 * size * size, 8), nn.ReLU(), nn.Linear(8, outputs)\n"
        "    return nn.Sequential(nn.Flatten(), *ends)\n"
    )
    own = f"python:{tmp_path / 'net.py'}:net"
    place = tmp_path / "runs" / "x"
    for options, message in (
        ({}, r"net cannot take an image of 3x16x16 \(data synthetic.*\): addmm: mat1"),
        ({"size": 16, "outputs": 3}, "has 3 outputs for an image, and the data synthetic.* has 4 classes"),
    ):
        model = ModelConfig(name=own, options=options)
        with pytest.raises(ValueError, match=message):
            run("train", asked("train", "", model=model), place)
        assert not place.exists()


def test_a_refused_job_leaves_an_earlier_result_alone(tmp_path: Path, checkpoint: Path) -> None:
    place = tmp_path / "x"
    run("evaluate", asked("evaluate", checkpoint), place)
    before = {path.name: path.read_bytes() for path in place.iterdir() if path.name != ".lock"}
    with pytest.raises(ValueError, match="draws = 0"):
        run("evaluate", asked("evaluate", checkpoint, draws__count=0), place)
    assert {path.name: path.read_bytes() for path in place.iterdir() if path.name != ".lock"} == before
    assert RESULT in before


def test_work_that_had_begun_says_why_it_failed(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> None:
        raise ValueError("in the middle of it")

    monkeypatch.setattr(evaluate_job, "evaluation_record", broken)
    with pytest.raises(ValueError, match="in the middle"):
        run("evaluate", asked("evaluate", checkpoint), tmp_path / "x")
    assert "in the middle" in (tmp_path / "x" / FAILURE).read_text()


def test_only_empty_folders_that_were_made_go(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    made = missing_folders(tmp_path / "there" / "a" / "b")
    assert made == [tmp_path / "there" / "a" / "b", tmp_path / "there" / "a"]
    made[0].mkdir(parents=True)
    (tmp_path / "there" / "a" / "file").touch()
    remove_empty_folders(made)
    assert not made[0].exists()
    assert (tmp_path / "there" / "a" / "file").exists()
    assert missing_folders(tmp_path) == []


def test_paths_are_shown_from_where_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shown_path(tmp_path / "runs" / "x") == "runs/x"
    assert shown_path("runs/x") == "runs/x"
    assert shown_path(tmp_path.parent / "elsewhere") == str(tmp_path.parent / "elsewhere")


def test_a_record_names_files_from_where_one_stands(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = asked("train", checkpoint, tracker=TrackerConfig())
    stored = run("train", config, tmp_path / "runs" / "train" / "x")
    assert stored["result"]["best_checkpoint"] == "runs/train/x/best.pt"
    assert str(tmp_path) not in (tmp_path / "runs" / "train" / "x" / RESULT).read_text()
    assert set(stored) >= {"commit", "uncommitted"}
