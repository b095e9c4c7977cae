"""What several tests of scripts start from: a network that has learnt something, and a script's job."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from circa_train import build_model
from circa_train.checkpoint import save_checkpoint
from circa_train.config import config_folder, register
from circa_train.config.naming import plain
from circa_train.data import Batches, load_data
from circa_train.jobs.build import describe_data
from circa_train.jobs.job import Job
from circa_train.jobs.settings import DataConfig

DATA = "synthetic:classes=3,size=8,channels=1,images=240"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network that has learnt its data: a few epochs of Adam."""
    path = tmp_path_factory.mktemp("trained") / "best.pt"
    splits = load_data(DATA)
    arguments = {"name": "resnet8", "num_classes": 3, "image_size": 8, "in_channels": 1, "width": 0.25}
    network = build_model(**arguments, seed=0)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    for epoch in range(5):
        for images, labels, _ in Batches(
            splits.train, 32, mean=splits.mean, std=splits.std, shuffle=True, epoch=epoch
        ):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(network(images), labels).backward()
            optimiser.step()
    data = describe_data(splits, DataConfig(name=DATA))
    save_checkpoint(path, network, {"model": arguments, "data": data, "fault": None, "frac_bits": 16}, None)
    return path


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., Job]:
    """Compose a script's configuration and wrap it as the job that the script would see; each call has a
    folder of its own.
    """
    register()
    log = logging.getLogger("tests.scripts")

    def make(root: str, *overrides: str) -> Job:
        with initialize_config_dir(config_folder(), version_base="1.3"):
            cfg = compose(root, [*overrides, "run.device=cpu", "run.progress=false"])
        folder = tmp_path / f"{root}{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        return Job(OmegaConf.to_object(cfg), plain(cfg), folder, True, log)

    return make
