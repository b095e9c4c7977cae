"""Other people's runtimes on a tiny export: they give the recorded logits, and refuse what is none."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from circa_train import NoFault, TruncatedSign
from circa_train.export import save_export, to_integers
from circa_train.export.reader import FolderError, open_folder

ADAPTERS = Path(__file__).parents[2] / "adapters"
VERSION_1 = Path(__file__).parents[1] / "export" / "version1"


class Tiny(nn.Module):
    """What moves values, a shortcut, groups, pooling and three sites, in a few hundred numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Conv2d(6, 4, 3, padding=1, groups=2)
        self.relu1, self.relu2, self.relu3 = nn.ReLU(), nn.ReLU(), nn.ReLU()
        self.pool, self.hidden, self.fc = nn.AvgPool2d(2), nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = self.relu1(self.one(x))
        moved = torch.cat([x, nn.functional.pad(x[:, ::2, 1:], (0, 0, 1, 0))], 1)
        x = self.pool(self.relu2(self.two(moved) + x))
        return self.fc(self.relu3(self.hidden(torch.flatten(x, 1))))


def export(folder: Path, specs) -> Path:
    torch.manual_seed(0)
    images = (torch.arange(2 * 3 * 4 * 4) * 97 % 251).to(torch.uint8).reshape(2, 3, 4, 4)
    network = to_integers(Tiny().eval(), specs, [(images.float() / 255 - 0.5) / 0.25])
    data = {"name": "made up", "mean": [0.5] * 3, "std": [0.25] * 3, "class_names": ["a", "b", "c"]}
    save_export(folder, network, images=images, labels=torch.tensor([1, 2]), data=data)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Both modes, one k per channel, and large ones, so that gates differ from the exact ones."""
    specs = {
        "relu1": TruncatedSign((0, 7, 20, 25), "negpass"),
        "relu2": TruncatedSign(25, "poszero"),
        "relu3": TruncatedSign(24, "negpass"),
    }
    return export(tmp_path_factory.mktemp("adapters") / "export", specs)


def run(adapter: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ADAPTERS / f"{adapter}.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def record(done: subprocess.CompletedProcess[str]) -> dict:
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_recorded_gates_are_not_the_exact_ones(folder):
    """Else a runtime with exact ReLUs would pass, too."""
    _, _, vectors = open_folder(folder)
    assert bool((vectors["logits.offset"] != vectors["exact.offset"]).any(1).all())


@pytest.mark.parametrize("what", ["logits.offset", "logits.local", "exact.offset"])
def test_mpyc_gives_the_recorded_logits(folder, what):
    found = record(run("on_mpyc", folder, 2, what))
    assert (found["equal"], found["images"], found["parties"]) == (2, 2, 1)
    assert found["sign_tests"] == 2 * (16 + 16 + 6)


def test_mpyc_gives_those_of_exact_sites_beside_truncated_ones(tmp_path):
    specs = {"relu1": NoFault(), "relu2": TruncatedSign(9), "relu3": TruncatedSign(3, "negpass")}
    assert record(run("on_mpyc", export(tmp_path / "export", specs), 2))["equal"] == 2


@pytest.mark.slow
def test_three_parties_of_mpyc_give_the_recorded_logits(folder):
    with socket.socket() as free:  # three ports in a row from one that is free now
        free.bind(("localhost", 0))
        port = min(free.getsockname()[1], 65000)
    found = record(run("on_mpyc", folder, 2, "-M3", "-B", port))
    assert (found["equal"], found["parties"]) == (2, 3)
    assert found["bytes"]["sign tests"] > found["sign_tests"] * 4


def test_mpyc_refuses_by_name_what_it_does_not_express(folder):
    done = run("on_mpyc", folder, 1, "logits.floor")
    assert done.returncode == 1
    assert "logits.floor" in done.stderr
    assert "runs .offset and .local" in done.stderr


def test_onnx_runtime_gives_the_real_logits(folder):
    found = record(run("on_onnxruntime", folder))
    assert (found["equal"], found["images"]) == (2, 2)
    assert found["largest_difference"]["real_logits"] < 1e-5
    assert 0 < found["largest_difference"]["exact.floor"] < 0.25


@pytest.mark.parametrize("adapter", ["on_mpyc", "on_onnxruntime"])
def test_what_is_no_sound_folder_is_refused_with_the_readers_own_error(adapter, folder, tmp_path):
    damaged, foreign = tmp_path / "damaged", tmp_path / "foreign"
    shutil.copytree(folder, damaged)
    content = bytearray((damaged / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (damaged / "weights.safetensors").write_bytes(content)
    foreign.mkdir()
    for place in (damaged, foreign):
        with pytest.raises(FolderError) as error:
            open_folder(str(place))
        done = run(adapter, place)
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1] == f"FolderError: {error.value}"


def test_the_reader_tells_what_is_wrong_with_a_folder(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "README.md").unlink()
    with pytest.raises(FolderError, match=r"is no export folder: .*README\.md"):
        open_folder(copy)
    assert open_folder(VERSION_1)[0]["format"] == 1


def test_every_adapter_is_short_and_reads_by_the_reader_alone():
    for path in ADAPTERS.glob("*.py"):
        source = path.read_text()
        assert source.count("\n") < 120, path.name
        assert "import torch" not in source
        assert "safetensors" not in source
        assert "circa_train " not in source.replace("circa_train/", "")
