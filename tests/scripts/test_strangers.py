"""A stranger's network, data set and fault model, from a folder of their own, through every script, as a user
would.
"""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

NET = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, num_classes, in_channels=3, hidden=4):
        convolutions = [nn.Conv2d(in_channels, hidden, 3, padding=1), nn.ReLU(), nn.AvgPool2d(4)]
        layers = [nn.Flatten(), nn.Linear(hidden * 4, 8), nn.ReLU(), nn.Linear(8, num_classes)]
        super().__init__(*convolutions, *layers)
"""

PICTURES = """
import numpy as np

def pictures():
    random = np.random.default_rng(0)
    def some(count):
        labels = random.integers(0, 3, count)
        images = random.integers(0, 60, (count, 8, 8, 3)).astype(np.uint8)
        for image, label in zip(images, labels):
            image[:, :, label] += 120
        return images, labels
    return (*some(120), *some(60))
"""

#: Low bits of both shares dropped and their carry lost, in Z_p; the circuit that computes it comes with the
#: second file.
FAULT = '''
from dataclasses import dataclass
from circa_train import SignTest
from circa_train.field import DEFAULT_PRIME

@dataclass(frozen=True)
class LowBits(SignTest):
    """s = [(x_s >> k) > (t >> k)], for x_s = (x + t) mod p without the wrap: only a lost carry errs."""
    k: int = 8
    prime: int = DEFAULT_PRIME
    kind = "low_bits"
    severity = "k"

    @property
    def mask_count(self):
        return self.prime

    def gate(self, x, mask):
        lost = (mask % 2**self.k) + x % 2**self.k < 2**self.k
        return (x > 0) & ((x >> self.k > 0) | ~lost)

    def counts(self, x):
        block, small = 2**self.k, (x > 0) & (x < 2**self.k)
        n, m = self.prime, (block - x % block)
        rest = n % block
        last = min(rest, m) if isinstance(x, int) else m.clamp(max=rest)
        return (small * ((n // block) * m + last),)
'''

CIRCUIT = """
from dataclasses import dataclass
from circa_train.cost import register_circuit
from circa_train.gc.circuits.sign import SignCircuit
from circa_train.gc.circuits import arithmetic
from my.fault import LowBits

@dataclass(frozen=True)
class Circuit(SignCircuit):
    prime: int
    k: int

    def sign(self, builder, server, client):
        '''x = x_s - t mod p is positive, and it leaves the block of t.'''
        difference, no_borrow = arithmetic.subtract(builder, server, client)
        again, _ = arithmetic.add(builder, difference, arithmetic.constant(self.prime, self.bits))[:-1], None
        x = arithmetic.select(builder, no_borrow, difference, again)
        half = arithmetic.constant((self.prime - 1) // 2, self.bits)
        nonnegative = builder.negation(arithmetic.greater(builder, x, half))
        total = arithmetic.add(builder, client[:self.k], x[:self.k])[-1] if self.k else False
        high = False
        for bit in x[self.k:]:
            high = builder.negation(builder.conjunction(builder.negation(high), builder.negation(bit)))
        leaves = builder.negation(builder.conjunction(builder.negation(high), builder.negation(total)))
        return builder.conjunction(nonnegative, leaves)

register_circuit(LowBits, lambda spec: Circuit(spec.prime, spec.k))
"""

NETWORK = "model.name=python:my/net.py:Net"
DATA = "data.name=python:my/pictures.py:pictures"
OWN_FAULT = ("fault=python", "fault.path=my.fault:LowBits")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stranger")
    (folder / "my").mkdir()
    for name, text in (("net", NET), ("pictures", PICTURES), ("fault", FAULT), ("circuit", CIRCUIT)):
        (folder / "my" / f"{name}.py").write_text(text)
    return folder


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> str:
    done = script(
        folder, "train", "model=resnet8", NETWORK, "data=synthetic", DATA, *OWN_FAULT, "fault.k=4",
        "epochs=2",
        "batch_size=12", "run.name=own",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("runs/train/own-*/best.pt")
    return str(path.relative_to(folder))


def script(folder: Path, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *arguments],
        cwd=folder, capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def results(folder: Path, pattern: str) -> list[dict]:
    return [json.loads(path.read_text())["result"] for path in sorted(folder.glob(pattern))]


def test_the_fault_model_keeps_its_promises(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from circa_train.testing import check_sign_test
    from circa_train.user_code import load

    monkeypatch.chdir(folder)
    for k in (0, 3, 6):
        check_sign_test(load("my/fault.py:LowBits")(k, prime=251))


def test_it_trains_is_swept_plotted_and_verified_once_it_has_a_circuit(folder: Path, checkpoint: str) -> None:
    given = (f"checkpoint={checkpoint}", NETWORK, DATA, *OWN_FAULT)
    sweep = script(folder, "evaluate", "-m", *given, "fault.k=4,12,20", "draws.count=2", "sites=true")
    assert sweep.returncode == 0, sweep.stderr
    found = results(folder, "runs/sweeps/sweep/*/result.json")
    assert sorted(result["fault"]["k"] for result in found) == [4, 12, 20]
    assert all(result["fault"]["kind"] == "low_bits" and result["severity"] == "k" for result in found)
    assert sum(site["observed"]["flip_zeroed"] for result in found for site in result["sites"]) > 0

    assert script(folder, "plot", "runs=runs/sweeps", "out=plots").returncode == 0
    with (folder / "plots" / "results.csv").open() as file:
        assert sorted(row["level"] for row in csv.DictReader(file)) == ["12", "20", "4"]
    assert (folder / "plots" / "accuracy_vs_low_bits.png").stat().st_size > 10_000

    reason = "no circuit is registered for the fault model 'low_bits'"
    for name, *more in (("verify",), ("export",)):
        refused = script(folder, name, *given, "fault.k=4", *more)
        assert (refused.returncode, reason in refused.stderr) == (2, True), refused.stderr
    refused = script(folder, "cost", "timed=false", "models=[resnet8]", "image_sizes=[16]", *OWN_FAULT)
    assert (refused.returncode, reason in refused.stderr) == (2, True), refused.stderr

    registered = ("fault=python", "fault.path=my.circuit:LowBits")
    verified = script(
        folder,
        "verify",
        f"checkpoint={checkpoint}",
        NETWORK,
        DATA,
        *registered,
        "fault.k=4",
        "verify.samples=200",
    )
    assert verified.returncode == 0, verified.stderr
    (record,) = results(folder, "runs/verify/*/result.json")
    assert (record["mismatches"], record["values"], len(record["sites"])) == (0, 400, 2)
    priced = script(folder, "cost", "timed=false", "models=[resnet8]", "image_sizes=[16]", *registered)
    assert re.search(r"\(d\)", priced.stdout), priced.stderr


def test_a_network_and_data_of_ones_own_pass_through_all_scripts(folder: Path, checkpoint: str) -> None:
    given = (f"checkpoint={checkpoint}", NETWORK, DATA, "fault=poszero")
    for name, *more in (
        ("evaluate", "fault.k=9", "draws.count=2"), ("verify", "fault.k=9", "verify.samples=100"),
        ("search", "budget=0.9", "margin=0", "draws.most=5", "trials=1", "images=20"), ("export", "fault.k=9",
        "images=20", "vectors=2"),
        ("cost", "timed=false", "models=[python:my/net.py:Net]", "image_sizes=[8]", "num_classes=3"),
    ):  # fmt: skip
        arguments = more if name == "cost" else [*given, *more]
        done = script(folder, name, *arguments)
        assert done.returncode == 0, (name, done.stderr)
    (export,) = folder.glob("runs/export/*/export")
    relative = str(export.relative_to(folder))
    for name, *more in (("evaluate", "fault=checkpoint", DATA, "draws.count=2"), ("verify",)):
        done = script(folder, name, f"checkpoint={relative}", *more)
        assert done.returncode == 0, (name, done.stderr)


def test_code_is_never_imported_because_a_file_says_so(folder: Path, checkpoint: str) -> None:
    refused = script(folder, "evaluate", f"checkpoint={checkpoint}", DATA, "fault=poszero")
    assert refused.returncode == 2
    assert f"name it: {NETWORK}" in refused.stderr
    refused = script(folder, "evaluate", f"checkpoint={checkpoint}", NETWORK, "fault=poszero")
    assert f"name it: {DATA}" in refused.stderr
    refused = script(folder, "evaluate", f"checkpoint={checkpoint}", NETWORK, DATA, "fault=checkpoint")
    assert "fault=python fault.path=my.fault:LowBits" in refused.stderr
    trusted = script(
        folder,
        "evaluate",
        f"checkpoint={checkpoint}",
        "fault=checkpoint",
        "run.trust_code=true",
        "draws.count=2",
    )
    assert trusted.returncode == 0, trusted.stderr
    refused = script(folder, "evaluate", f"checkpoint={checkpoint}", "fault=checkpoint", "draws.count=2")
    assert f"name it: {NETWORK} {DATA} fault=python fault.path=my.fault:LowBits fault.k=4" in refused.stderr
    assert "changed since" not in refused.stdout + refused.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("model.name=python:my/none.py:Net",), "there is no file my/none.py"),
        (("model.name=python:my/net.py:Nothing",), "has no 'Nothing'; it has nn, Net"),
        (("model.name=python:my.none:Net",), "there is no module 'my.none'"),
        ((NETWORK, "model.options={depth: 3}"), "has no option depth"),
        (("fault=python", "fault.path=my/net.py:Net"), "not a class derived from circa_train.SignTest"),
        ((*OWN_FAULT, "fault.k=many"), "fault.k"),
        ((*OWN_FAULT, "fault.bits=3"), "fault.bits"),
    ],
)
def test_what_is_wrong_is_named_before_anything_is_loaded(
    folder: Path, arguments: tuple[str, ...], message: str
) -> None:
    refused = script(folder, "train", "model=resnet8", "data=synthetic", DATA, *arguments)
    assert refused.returncode != 0
    assert message in refused.stderr, refused.stderr
