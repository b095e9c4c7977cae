"""A small trained network on small images, and its integer form, for the tests of this folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from circa_train import TruncatedSign, build_model
from circa_train.data import load_data
from circa_train.data.batches import Batches
from circa_train.export import to_integers

sys.path.insert(0, str(Path(__file__).parent))  # makes reference.py importable under any import mode


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Layers this small only lose by a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def splits():
    return load_data("synthetic:classes=4,size=8,channels=3,images=300", seed=0)


@pytest.fixture(scope="session")
def images(splits) -> Tensor:
    return next(iter(Batches(splits.test, 32, mean=splits.mean, std=splits.std)))[0]


@pytest.fixture(scope="session")
def trained(splits) -> nn.Module:
    """resnet8, half as wide, after a few steps: its BatchNorm statistics and weights are no longer the
    initial ones.
    """
    model = build_model("resnet8", num_classes=4, image_size=8, width=0.5, shortcut="B", seed=0).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for epoch in range(2):
        batches = Batches(splits.train, 32, mean=splits.mean, std=splits.std, shuffle=True, epoch=epoch)
        for inputs, labels, _ in batches:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
    return model.eval()


@pytest.fixture(scope="session")
def conversion(trained, images):
    return to_integers(trained, TruncatedSign(k=8), [images], seed=3)
