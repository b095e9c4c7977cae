"""Export folders of small networks, one per kind of structure that the share walk must follow."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from circa_train import NoFault, TruncatedSign, build_model, export_network
from circa_train.data import load_data
from circa_train.gc.aes import engines
from circa_train.pi.network import Network, load_network

SMALL = {"num_classes": 4, "image_size": 8, "width": 0.5, "seed": 0}


class Chain(nn.Module):
    """Two convolutions without a ReLU between them, a pool before a sign test, and a value that two read."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.three, self.fc = nn.Conv2d(4, 4, 1), nn.Linear(64, 4)

    def forward(self, x):
        y = self.two(self.one(x))
        y = torch.relu(nn.functional.avg_pool2d(y, 2))
        z = self.three(y)
        return self.fc(torch.flatten(torch.relu(z) + z, 1))


def models() -> dict[str, tuple[nn.Module, object]]:
    torch.manual_seed(0)
    masks = {"relu": torch.rand(8, 8, 8) < 0.5, "layer1.0.relu1": torch.tensor([True, True, False, True] * 2)}
    reduced = build_model("resnet8", **SMALL, reduction={"masks": masks, "sites": ["layer2.0.relu1"]})
    sites = ("relu", "layer1.0.relu1", "layer1.0.relu2", "layer2.0.relu1", "layer2.0.relu2",
             "layer3.0.relu1", "layer3.0.relu2")  # fmt: skip
    mixed = {site: TruncatedSign(k=9 + i, mode=("poszero", "negpass")[i % 2]) for i, site in enumerate(sites)}
    mixed["relu"] = NoFault()
    mixed["layer1.0.relu1"] = TruncatedSign(k=(8, 10, 8, 12, 0, 8, 10, 8))
    return {
        "projection": (build_model("resnet8", shortcut="B", **SMALL), TruncatedSign(k=12)),
        "padded": (build_model("resnet8", **SMALL), TruncatedSign(k=17, mode="negpass")),
        "mixed": (build_model("resnet8", **SMALL), mixed),
        "reduced": (reduced, TruncatedSign(k=9, mode="negpass")),
        "chain": (Chain(), TruncatedSign(k=10)),
        "exact": (Chain(), NoFault()),
    }


def write_export(name: str, folder: Path) -> Path:
    torch.set_num_threads(1)
    splits = load_data("synthetic:classes=4,size=8,channels=3,images=80", seed=0)
    model, spec = models()[name]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.train()
        model((splits.train.images[:64].float() / 255 - 0.5) / 0.25)  # statistics of its own
        export_network(
            model.eval(), folder / name, splits.test, spec=spec, mean=splits.mean, std=splits.std,
            class_names=splits.class_names, name="synthetic", vectors=2, calibration_images=16,
        )  # fmt: skip
    return folder / name


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_compiled():
    """The numpy engine: its bytes are those of the compiled one, and no party waits for a compiler."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "available_kernels", lambda: ("numpy",))
        yield


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """From the name of a network to its export folder."""
    made: dict[str, Path] = {}

    def of(name: str) -> Path:
        if name not in made:
            made[name] = write_export(name, tmp_path_factory.mktemp("exports"))
        return made[name]

    return of


@pytest.fixture(scope="session")
def networks(folders):
    """From the name of a network to the network that a server has."""
    made: dict[str, Network] = {}

    def of(name: str) -> Network:
        if name not in made:
            made[name] = load_network(folders(name))
        return made[name]

    return of


@pytest.fixture(scope="session")
def inputs(networks):
    """Integer inputs of a network: those of its test vectors."""
    return lambda name: networks(name).vectors["inputs"].astype(np.int64)
