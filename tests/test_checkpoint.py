from __future__ import annotations

import json
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from circa_train.checkpoint import (
    CheckpointError,
    adopt_foreign,
    digest,
    load_checkpoint,
    load_foreign_state,
    load_network,
    load_state_into,
    save_checkpoint,
)
from circa_train.nn.models.registry import build_model

MODEL = {"name": "resnet20", "num_classes": 4, "image_size": 8, "in_channels": 1, "width": 0.125}


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return build_model(**MODEL, seed=1)


def assert_same_weights(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert list(one) == list(other)
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def test_there_and_back(model: nn.Module, tmp_path: Path) -> None:
    tensors = {"empty": torch.zeros(0), "half": torch.ones(2).bfloat16()}
    state = {"numbers": [1, 2.5, None, True], "nested": {3: (torch.arange(4),)}, "tensors": tensors}
    save_checkpoint(
        tmp_path / "new" / "best.pt", model, {"model": MODEL, "metrics": {"accuracy": 0.5}}, state
    )
    loaded = load_checkpoint(tmp_path / "new" / "best.pt")
    assert_same_weights(loaded.state_dict, model.state_dict())
    assert digest(loaded.training_state) == digest(state)
    assert loaded.metadata["metrics"] == {"accuracy": 0.5}
    assert loaded.metadata["format"] == 1
    readable = json.loads((tmp_path / "new" / "best.json").read_text())
    assert readable.pop("sha256")
    assert readable == loaded.metadata
    assert sorted(os.listdir(tmp_path / "new")) == ["best.json", "best.pt"]


def test_network_is_rebuilt_without_touching_the_global_generator(model: nn.Module, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.pt", model, {"model": MODEL})
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    network = load_network(tmp_path / "a.pt")
    assert torch.equal(torch.rand(2), expected)
    assert not network.training
    assert_same_weights(network.state_dict(), model.state_dict())


def test_only_the_viewed_part_of_a_tensor_is_saved(tmp_path: Path) -> None:
    save_checkpoint(
        tmp_path / "a.pt", {"w": torch.zeros(1_000_000)[:3]}, {}, {"m": torch.zeros(1_000_000)[:3]}
    )
    assert (tmp_path / "a.pt").stat().st_size < 10_000


@pytest.mark.parametrize(
    ("metadata", "state", "error", "message"),
    [
        ({"model": nn.ReLU}, None, TypeError, "a.pt must be plain JSON"),
        ({"metrics": {"loss": float("nan")}}, None, ValueError, "a.pt must be plain JSON"),
        ({}, {"list": [np.float64(1)]}, TypeError, r"training_state\['list'\]\[0\] is a float64"),
        ({}, {"net": nn.ReLU()}, TypeError, r"training_state\['net'\] is a ReLU"),
    ],
)
def test_what_could_not_be_loaded_again_is_not_saved(
    tmp_path: Path, metadata: dict[str, Any], state: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        save_checkpoint(tmp_path / "a.pt", {"w": torch.zeros(1)}, metadata, state)
    assert list(tmp_path.iterdir()) == []


def test_failed_write_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path / "a.pt", {"w": torch.zeros(3)}, {})

    def half(content: Any, file: Any) -> None:
        file.write(b"half of it")
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", half)
        with pytest.raises(OSError, match="no space"):
            save_checkpoint(tmp_path / "a.pt", {"w": torch.ones(3)}, {})
    assert torch.equal(load_checkpoint(tmp_path / "a.pt").state_dict["w"], torch.zeros(3))
    save_checkpoint(tmp_path / "a.pt", {"w": torch.ones(3)}, {})
    assert sorted(os.listdir(tmp_path)) == ["a.json", "a.pt"]  # what the failed write left has been reused


def test_every_truncation_is_refused_by_name(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.pt", {"w": torch.arange(100.0)}, {"note": "x"}, {"step": 1})
    whole = (tmp_path / "a.pt").read_bytes()
    for length in [*range(0, len(whole), 97), len(whole) - 1]:
        (tmp_path / "a.pt").write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"a\.pt is damaged"):
            load_checkpoint(tmp_path / "a.pt")


def test_no_flipped_byte_changes_what_is_loaded(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.pt", {"w": torch.arange(100.0)}, {"note": "x"}, {"step": 1})
    whole = bytearray((tmp_path / "a.pt").read_bytes())
    expected = load_checkpoint(tmp_path / "a.pt")
    refused = 0
    for place in range(0, len(whole), 13):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        (tmp_path / "a.pt").write_bytes(damaged)
        try:
            loaded = load_checkpoint(tmp_path / "a.pt")
        except CheckpointError:
            refused += 1
        else:  # padding between the parts of the archive
            assert torch.equal(loaded.state_dict["w"], expected.state_dict["w"])
            assert (loaded.metadata, loaded.training_state) == (expected.metadata, expected.training_state)
    assert refused > 50


def test_changed_weight_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.pt", {"w": torch.arange(5.0)}, {})
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    content["state_dict"]["w"][2] += 1e-6
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"a\.pt is damaged.*SHA-256"):
        load_checkpoint(tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="SHA-256"):
        load_foreign_state(tmp_path / "a.pt")


def test_newer_format_and_missing_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no checkpoint .*a\.pt"):
        load_checkpoint(tmp_path / "a.pt")
    torch.save({"format": 2, "state_dict": {}, "metadata": {}, "training_state": None}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="format 2, this version reads 1"):
        load_checkpoint(tmp_path / "a.pt")


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/circa_train_was_here",)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, legacy: bool) -> None:
    ran: list[str] = []
    torch.save({"state_dict": {"w": Hostile()}}, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    monkeypatch.setattr(os, "system", ran.append)
    for load in (load_checkpoint, load_foreign_state, load_network):
        with pytest.raises(CheckpointError, match=r"a\.pt is refused: unpickling it would call \S*system"):
            load(tmp_path / "a.pt")
    assert ran == []


def test_bare_pickle_and_whole_module_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(CheckpointError, match=r"a\.pt is (refused|damaged)"):
        load_foreign_state(tmp_path / "a.pt")
    torch.save(nn.Linear(2, 2), tmp_path / "a.pt")
    with pytest.raises(
        CheckpointError, match=r"would call torch.nn.modules.linear.Linear.*torch.save\(model.state_dict"
    ):
        load_foreign_state(tmp_path / "a.pt")


def test_a_folder_names_the_checkpoints_in_it(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is a folder, and a checkpoint is a file, and none is in it"):
        load_checkpoint(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best.pt").touch()
    with pytest.raises(CheckpointError, match=r"a checkpoint is a file; in it: run.best\.pt"):
        load_checkpoint(tmp_path)


def test_a_file_of_text_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_text("hello\n")
    with pytest.raises(
        CheckpointError, match=r"a\.pt is damaged or is no checkpoint of PyTorch: it does not unpickle"
    ):
        load_checkpoint(tmp_path / "a.pt")


def prefixed(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    return OrderedDict((prefix + name, value) for name, value in state.items())


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("wrapped", ["plain", "state_dict", "model", "net", "model_state_dict", "both"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_foreign_layouts(model: nn.Module, tmp_path: Path, wrapped: str, prefix: str, legacy: bool) -> None:
    state = prefixed(model.state_dict(), prefix)
    content: dict[str, Any] = {"epoch": 3, "best_prec1": 92.5, "optimizer": {"state": {0: torch.zeros(1)}}}
    content = state if wrapped == "plain" else content | {"model" if wrapped == "both" else wrapped: state}
    if wrapped == "both":
        content = {"state_dict": content}
    torch.save(content, tmp_path / "a.th", _use_new_zipfile_serialization=not legacy)
    assert_same_weights(load_foreign_state(tmp_path / "a.th"), dict(model.state_dict()))


def test_safetensors(model: nn.Module, tmp_path: Path) -> None:
    save_file(prefixed(model.state_dict(), "module."), tmp_path / "a.safetensors")
    network = load_network(adopt_foreign(tmp_path / "a.safetensors", model=MODEL))
    assert_same_weights(network.state_dict(), model.state_dict())
    whole = (tmp_path / "a.safetensors").read_bytes()
    for length in (0, 5, 100, len(whole) - 1):
        (tmp_path / "a.safetensors").write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"a\.safetensors is damaged"):
            load_foreign_state(tmp_path / "a.safetensors")


def test_torchvision_names(model: nn.Module, tmp_path: Path) -> None:
    renamed = {
        name.replace("shortcut", "downsample").replace("linear.", "fc."): value
        for name, value in model.state_dict().items()
    }
    torch.save(renamed, tmp_path / "a.pth")
    fresh = build_model(**MODEL, seed=2)
    load_state_into(fresh, load_foreign_state(tmp_path / "a.pth"))
    assert_same_weights(fresh.state_dict(), dict(model.state_dict()))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3, "lr": 0.1}, r"a\.pt holds no weights.*a dict with the keys 'epoch', 'lr'"),
        ({}, r"a\.pt holds no weights.*an empty dict"),
        (torch.zeros(3), r"a\.pt holds no weights.*a Tensor"),
        ([1, 2], r"a\.pt holds no weights.*a list"),
    ],
)
def test_file_without_weights_is_described(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=message):
        load_foreign_state(tmp_path / "a.pt")


def test_foreign_checkpoint_says_what_supplies_its_metadata(model: nn.Module, tmp_path: Path) -> None:
    torch.save({"state_dict": model.state_dict()}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"model\.name=.*data=.*adopt_foreign"):
        load_network(tmp_path / "a.pt")
    data = {"name": "digits", "mean": [0.5], "std": [0.5], "class_names": list("abcd")}
    adopted = adopt_foreign(tmp_path / "a.pt", model=MODEL, data=data, frac_bits=12)
    save_checkpoint(tmp_path / "b.pt", adopted.state_dict, adopted.metadata)
    assert load_checkpoint(tmp_path / "b.pt").metadata["data"] == data
    assert_same_weights(load_network(tmp_path / "b.pt").state_dict(), dict(model.state_dict()))


def test_metadata_that_build_no_network_are_named(model: nn.Module, tmp_path: Path) -> None:
    for described in ({}, {"model": None}, {"model": {"num_classes": 4}}):
        save_checkpoint(tmp_path / "a.pt", model, described)
        with pytest.raises(CheckpointError, match=r"a\.pt do not say which network"):
            load_network(tmp_path / "a.pt")
    for arguments in (MODEL | {"name": "resnet21"}, MODEL | {"colour": 1}):
        save_checkpoint(tmp_path / "a.pt", model, {"model": arguments})
        with pytest.raises(CheckpointError, match=r"a\.pt cannot be built.*(resnet21|colour)"):
            load_network(tmp_path / "a.pt")


def test_mismatch_lists_missing_unexpected_and_misshapen_keys_briefly(model: nn.Module) -> None:
    state = dict(model.state_dict())
    state.pop("linear.bias")
    state["linear.weight"] = torch.zeros(7, 8)
    state |= {f"extra.{i}": torch.zeros(1) for i in range(100)}
    fresh = build_model(**MODEL, seed=2)
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    with pytest.raises(CheckpointError) as refused:
        load_state_into(fresh, state, source="a.pt")
    message = str(refused.value)
    assert "a.pt does not fit" in message
    assert "1 missing: linear.bias" in message
    assert "100 unexpected: extra.0" in message
    assert "and 92 more" in message
    assert "1 misshapen: linear.weight (7, 8), the network has (4, 8)" in message
    assert len(message) < 600
    assert_same_weights(before, dict(fresh.state_dict()))  # all or nothing


def test_digest_sees_types_keys_shapes_and_bytes() -> None:
    values: list[Any] = [
        {"a": torch.zeros(4)},
        {"b": torch.zeros(4)},
        {"a": torch.zeros(2, 2)},
        {"a": torch.zeros(4, dtype=torch.float64)},
        {"a": torch.tensor([0.0, 0, 0, -0.0])},
        {"a": [0, 0, 0, 0]},
        {"a": [0, [0, 0, 0]]},
        {"a": "0"},
        {"a": 0},
        {"a": 0.0},
        {"a": None},
        {},
    ]
    assert len({digest(value) for value in values}) == len(values)
    assert digest({"a": torch.arange(6).reshape(2, 3).T}) == digest(
        {"a": torch.arange(6).reshape(2, 3).T.contiguous()}
    )
