"""Weights of other people's scripts: what their files are said to be, and names that are made to fit."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from circa_train.checkpoint import (
    CheckpointError,
    adopt_foreign,
    load_checkpoint,
    load_foreign_state,
    load_state_into,
    save_checkpoint,
)
from circa_train.nn.models.registry import MAX_CLASSES, build_model

MODEL = {"name": "resnet20", "num_classes": 4, "image_size": 8, "in_channels": 1, "width": 0.125}


@pytest.fixture(scope="module")
def state() -> dict[str, Any]:
    return dict(build_model(**MODEL, seed=1).state_dict())


def adopted(path: Path, content: Any, state: dict[str, Any]) -> None:
    """Save the content, adopt it, and compare with the weights."""
    torch.save(content, path)
    network = adopt_foreign(path, model=MODEL)
    for name, value in state.items():
        assert torch.equal(network.state_dict[name], value), name


@pytest.mark.parametrize("prefix", ["model.", "net.", "encoder.", "backbone.", "module.model.", "a.b.c."])
def test_a_shared_prefix_is_recognised(state: dict[str, Any], tmp_path: Path, prefix: str) -> None:
    adopted(tmp_path / "a.pt", {"state_dict": {prefix + key: value for key, value in state.items()}}, state)


def test_counters_of_tools_are_no_weights(state: dict[str, Any], tmp_path: Path) -> None:
    averaged = {f"module.{key}": value for key, value in state.items()} | {"n_averaged": torch.tensor(3)}
    adopted(tmp_path / "a.pt", averaged, state)
    profiled = dict(state) | {
        f"{module}{name}": torch.zeros(1, dtype=torch.float64)
        for module in ("", "layer1.0.conv1.", "linear.")
        for name in ("total_ops", "total_params")
    }
    adopted(tmp_path / "a.pt", {f"model.{key}": value for key, value in profiled.items()}, state)


def test_weights_that_the_network_does_not_have_are_never_dropped(state: dict[str, Any]) -> None:
    fresh = build_model(**MODEL, seed=2)
    for extra in ("criterion.weight", "total", "n_averaged_twice"):
        with pytest.raises(CheckpointError, match=f"unexpected: {extra}"):
            load_state_into(fresh, {**state, extra: torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"missing: conv1\.weight.*unexpected: net\.conv1\.weight"):
        load_state_into(fresh, {f"net.{key}": value for key, value in state.items()} | {"x": torch.zeros(1)})


def test_a_network_whose_names_begin_alike_keeps_them() -> None:
    network = nn.Sequential()
    network.add_module("net", nn.Sequential(nn.Linear(2, 3)))
    weights = {"net.0.weight": torch.ones(3, 2), "net.0.bias": torch.zeros(3)}
    load_state_into(network, weights)
    assert torch.equal(network.net[0].weight, torch.ones(3, 2))
    load_state_into(network, {f"model.{key}": 2 * value for key, value in weights.items()})
    assert torch.equal(network.net[0].weight, 2 * torch.ones(3, 2))


def test_numbers_of_numpy_beside_the_weights_are_read(state: dict[str, Any], tmp_path: Path) -> None:
    for number in (np.float64(93.1), np.float32(1), np.int64(7), np.bool_(True)):
        adopted(
            tmp_path / "a.pt", {"net": state, "acc": number, "more": [np.float64(1), {"x": number}]}, state
        )
    torch.save({"net": state, "acc": np.str_("text")}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"a\.pt is refused: it holds a numpy scalar"):
        load_foreign_state(tmp_path / "a.pt")
    torch.save({"net": state, "acc": np.zeros(3)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"would call numpy\S*_reconstruct"):
        load_foreign_state(tmp_path / "a.pt")


@pytest.mark.parametrize("kind", [torch.complex64, torch.complex128, torch.int8, torch.bool])
def test_weights_of_another_kind_are_refused(state: dict[str, Any], kind: torch.dtype) -> None:
    fresh = build_model(**MODEL, seed=2)
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    with pytest.raises(CheckpointError, match=f"1 of another kind: conv1.weight {kind}"):
        load_state_into(fresh, {**state, "conv1.weight": state["conv1.weight"].to(kind)})
    with pytest.raises(CheckpointError, match="of another kind"):
        load_state_into(fresh, {**state, "bn1.num_batches_tracked": torch.tensor(3j)})
    assert all(torch.equal(value, before[name]) for name, value in fresh.state_dict().items())
    load_state_into(fresh, {name: value.half() for name, value in state.items()})  # less exact, but the same


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".ckpt"])
def test_what_is_no_checkpoint_is_named(tmp_path: Path, suffix: str) -> None:
    cases = {
        "version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 12345\n": "Git LFS.*12345.*lfs pull",
        "<!DOCTYPE html>\n<html>": "web page.*download the file itself",
        "\n  <html lang='en'>": "web page",
        "\x1f\x8b\x08": "gzip: unpack",
        "\x89HDF\r\n": "HDF5",
    }
    path = tmp_path / f"a{suffix}"
    for text, message in cases.items():
        path.write_bytes(text.encode("latin1"))
        for load in (load_checkpoint, load_foreign_state):
            with pytest.raises(CheckpointError, match=rf"a\{suffix} is .*{message}"):
                load(path)


@pytest.mark.filterwarnings("ignore")
def test_archives_of_other_kinds_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.jit.script(nn.Linear(2, 2)).save(path)
    with pytest.raises(CheckpointError, match=r"TorchScript archive, a program.*state_dict\(\)"):
        load_foreign_state(path)
    with path.open("wb") as file:
        np.savez(file, w=np.zeros(3))
    with pytest.raises(CheckpointError, match="archive of numpy arrays"):
        load_foreign_state(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("photo.jpg", "x")
    with pytest.raises(CheckpointError, match=r"without the one data\.pkl of a checkpoint \(photo\.jpg\)"):
        load_foreign_state(path)


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "zero.pt").symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match=r"zero\.pt is no regular file"):
        load_checkpoint(tmp_path / "zero.pt")


def test_tied_and_shared_weights_are_read(tmp_path: Path) -> None:
    shared = torch.arange(12.0)
    state = {"a": shared, "b": shared, "rows": shared.reshape(3, 4).T, "one": torch.ones(1).expand(1000)}
    torch.save(state, tmp_path / "a.pt")
    loaded = load_foreign_state(tmp_path / "a.pt")
    assert all(torch.equal(loaded[name], state[name]) for name in state)


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.uint16, torch.bool, torch.float64]
)
@pytest.mark.parametrize("legacy", [False, True])
def test_every_type_of_tensor_is_read(tmp_path: Path, dtype: torch.dtype, legacy: bool) -> None:
    if legacy and dtype in (torch.float8_e4m3fn, torch.uint16):
        return  # which torch itself cannot read back
    value = torch.ones(3).to(dtype)
    content = {
        "w": value,
        "p": nn.Parameter(torch.ones(2)),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(2),
    }
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    assert torch.equal(load_foreign_state(tmp_path / "a.pt")["w"].float(), torch.ones(3))


def test_a_training_state_of_any_plain_values_is_read(tmp_path: Path) -> None:
    groups = [{"lr": 0.1, "betas": (0.9, 0.999), "foreach": None, "params": [0, 1]}]
    state = {
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": groups},
        "big": 2**70,
        "negative": -(2**40),
        "text": "ä" * 300,
        "inf": 1e999,
    }
    state["many"] = list(range(1000))
    save_checkpoint(tmp_path / "a.pt", {"w": torch.zeros(1)}, {}, state)
    assert load_checkpoint(tmp_path / "a.pt").training_state == state


def test_sizes_of_networks_have_a_stated_limit() -> None:
    size = {"num_classes": 10, "image_size": 32}
    for name, options, message in (
        (
            "resnet8",
            {"num_classes": MAX_CLASSES + 1},
            "num_classes = 100001: a network may have at most 100000",
        ),
        ("torchvision:resnet18", {"num_classes": 10**9}, "at most 100000"),
        ("resnet8", {"in_channels": 10**6}, "in_channels = 1000000"),
        ("vgg16", {"image_size": 10**6}, "image_size = 1000000"),
        ("resnet8", {"width": 1e9}, "width must be a positive factor of at most 64"),
        (
            "resnet18",
            {"width": 60.0},
            r"resnet18 with .* would have [\d,]+ parameters, and at most 536,870,912",
        ),
        ("vgg16", {"image_size": 1024}, "vgg16 with .* parameters, and at most"),
    ):
        with pytest.raises(ValueError, match=message):
            build_model(name, **(size | options))
    wide = build_model("resnet8", **size, width=4.0)  # unusual, and allowed
    assert wide.linear.in_features == 256
