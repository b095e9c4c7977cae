"""Mask files there and back, damaged ones refused; random and magnitude masks keep what they say."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from circa_train.files import file_digest
from circa_train.nn.models.kept_relus import (
    decode_mask,
    encode_mask,
    magnitude_masks,
    random_masks,
    relu_shapes,
)
from circa_train.nn.models.mask_files import load_masks, save_masks
from circa_train.nn.models.registry import build_model

INPUT = (1, 16, 16)


def small():
    return build_model("resnet8", num_classes=4, image_size=16, in_channels=1, seed=3)


@pytest.mark.parametrize("granularity", ["pixel", "channel"])
@pytest.mark.parametrize("keep", [0.0, 0.25, 1.0])
def test_random_masks_keep_the_fraction_and_depend_on_the_seed_alone(granularity, keep):
    model = small()
    one = random_masks(model, INPUT, keep, granularity=granularity, seed=1)
    again = random_masks(model, INPUT, keep, granularity=granularity, seed=1)
    total = sum(mask.numel() for mask in one.values())
    kept = sum(int(mask.sum()) for mask in one.values())
    largest = 1 if granularity == "pixel" else 16 * 16
    assert keep * total - largest < kept <= keep * total + 0.5
    assert {site: tuple(mask.shape) for site, mask in one.items()} == relu_shapes(model, INPUT)
    assert all(torch.equal(one[site], again[site]) for site in one)
    if 0 < keep < 1:
        other = random_masks(model, INPUT, keep, granularity=granularity, seed=2)
        assert any(not torch.equal(one[site], other[site]) for site in one)
    if granularity == "channel":
        assert all(torch.equal(mask.flatten(1).any(1), mask.flatten(1).all(1)) for mask in one.values())


def test_magnitude_masks_keep_the_relus_that_change_their_input_most():
    model = nn.Sequential(nn.Identity(), nn.ReLU())
    images = torch.tensor([[3.0, -5.0, -1.0, 2.0], [1.0, -5.0, -2.0, -9.0]])
    # max(0, -z) on average: 0, 5, 1.5, 4.5
    assert magnitude_masks(model, [images], 0.5)["1"].tolist() == [False, True, False, True]
    halves = magnitude_masks(model, [(images[:1], 0), (images[1:], 0)], 0.5)
    assert halves["1"].tolist() == [False, True, False, True]


def test_magnitude_masks_leave_the_model_alone():
    model = small().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    masks = magnitude_masks(model, [torch.randn(4, *INPUT)], 0.5, granularity="channel")
    assert model.training
    assert model.layer1.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert set(masks) == set(relu_shapes(model, INPUT))


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_files_go_there_and_back(tmp_path, suffix):
    masks = random_masks(small(), INPUT, 0.4)
    save_masks(tmp_path / f"masks{suffix}", masks)
    loaded = load_masks(tmp_path / f"masks{suffix}")
    assert set(loaded) == set(masks)
    assert all(loaded[site].dtype == torch.bool and torch.equal(loaded[site], masks[site]) for site in masks)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["masks.json", f"masks{suffix}"])
    about = json.loads((tmp_path / "masks.json").read_text())
    kept = {site: int(mask.sum()) for site, mask in masks.items()}
    assert {site: told["kept"] for site, told in about["sites"].items()} == kept
    assert (about["kept"], about["relus"]) == (sum(kept.values()), sum(m.numel() for m in masks.values()))
    assert about["sites"]["relu"]["shape"] == [16, 16, 16]
    assert about["sha256"] == file_digest(tmp_path / f"masks{suffix}")


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_damaged_files_are_refused_by_name(tmp_path, suffix):
    path = tmp_path / f"masks{suffix}"
    save_masks(path, {"relu": torch.ones(400, dtype=torch.bool)})
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=f"cannot read the mask file .*masks{suffix}"):
        load_masks(path)


def test_missing_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no mask file"):
        load_masks(tmp_path / "none.npz")
    (tmp_path / "masks.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"safetensors or \.npz"):
        load_masks(tmp_path / "masks.pt")
    with pytest.raises(ValueError, match=r"safetensors or \.npz"):
        save_masks(tmp_path / "masks.pt", {})


@pytest.mark.parametrize("shape", [(1,), (7,), (8,), (3, 5, 5), (16, 1, 1)])
def test_encoded_masks_go_there_and_back(shape):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.5
    assert torch.equal(decode_mask("relu", encode_mask(mask)), mask)


@pytest.mark.parametrize(
    "value",
    [None, 3, {}, {"shape": [8], "bits": "?"}, {"shape": [8], "bits": "AAAA"}, {"shape": [-8], "bits": ""},
     encode_mask(torch.ones(64, dtype=torch.bool)) | {"shape": [8]},
     encode_mask(torch.ones(8, dtype=torch.bool)) | {"shape": [64]}],
)
def test_what_encode_mask_did_not_write_is_refused(value):
    with pytest.raises(ValueError, match="ReLU site 'relu'"):
        decode_mask("relu", value)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="keep must be a fraction"):
        random_masks(small(), INPUT, 1.5)
    with pytest.raises(ValueError, match="pixel, channel"):
        random_masks(small(), INPUT, 0.5, granularity="row")
    with pytest.raises(ValueError, match="at least one batch"):
        magnitude_masks(small(), [], 0.5)
