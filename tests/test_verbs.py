"""The verbs of the scripts from Python: evaluate with a data loader, verify, search and export in one call
each.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import circa_train
from circa_train import TruncatedSign, build_model, with_stochastic_relus
from circa_train.data import ImageSet, load_data
from circa_train.export import check_export, open_export


@pytest.fixture(scope="module")
def splits():
    return load_data("synthetic:classes=3,size=8,channels=3,images=120", seed=0)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    model = build_model("resnet8", num_classes=3, image_size=8, width=0.25, seed=0).eval()
    return with_stochastic_relus(model, TruncatedSign(14), frac_bits=16, seed=1)


def normalised(images: ImageSet, splits) -> torch.Tensor:
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (splits.mean, splits.std))
    return (images.images.float() / 255 - mean) / std


def test_a_data_loader_is_evaluated_as_the_image_set_is(network: nn.Module, splits) -> None:
    whole = circa_train.evaluate(network, splits.test, mean=splits.mean, std=splits.std, draws=2)
    pixels = TensorDataset(normalised(splits.test, splits), splits.test.labels)
    loaded = circa_train.evaluate(network, DataLoader(pixels, batch_size=7), draws=2)
    assert loaded.images == whole.images == len(splits.test)
    assert all(
        abs(a - b) <= 1 / whole.images for a, b in zip(loaded.accuracies, whole.accuracies, strict=True)
    )
    again = circa_train.evaluate(network, DataLoader(pixels, batch_size=7), draws=2)
    assert again.accuracies == loaded.accuracies


def test_normalisation_is_said_where_it_is_needed_and_nowhere_else(network: nn.Module, splits) -> None:
    with pytest.raises(ValueError, match="say how they are normalised"):
        circa_train.evaluate(network, splits.test)
    loader = DataLoader(TensorDataset(normalised(splits.test, splits), splits.test.labels))
    with pytest.raises(ValueError, match="leave out mean and std"):
        circa_train.evaluate(network, loader, mean=splits.mean, std=splits.std)
    with pytest.raises(ValueError, match="nothing to evaluate"):
        circa_train.evaluate(network, [])


def test_a_network_is_verified_in_one_call_and_left_as_it_was(network: nn.Module, splits) -> None:
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    images = normalised(splits.test.subset(torch.arange(8)), splits)
    reports = circa_train.verify_network(network, images, samples=50, sites=2)
    assert [report.agrees for report in reports] == [True, True]
    assert [report.values for report in reports] == [50, 50]
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())
    with pytest.raises(ValueError, match="no stochastic ReLU"):
        circa_train.verify_network(nn.Linear(2, 2), torch.zeros(1, 2))


def test_a_network_is_exported_in_one_call(network: nn.Module, splits, tmp_path: Path) -> None:
    digest = circa_train.export_network(
        network, tmp_path / "export", splits.test, mean=splits.mean, std=splits.std,
        class_names=splits.class_names, vectors=3, calibration_images=16,
    )  # fmt: skip
    export = open_export(tmp_path / "export", digest=digest)
    assert len(export.vectors["images"]) == 3
    check_export(export)
    with pytest.raises(ValueError, match="say which, spec="):
        circa_train.export_network(
            nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), tmp_path / "no", splits.test, mean=splits.mean,
            std=splits.std, class_names=splits.class_names,
        )  # fmt: skip
