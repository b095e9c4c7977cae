"""scripts/verify.py from the command line to its exit code, on a small network with embedded data."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from circa_train.checkpoint import load_network, save_checkpoint
from circa_train.data import Batches, load_data
from circa_train.export import save_export, to_integers
from circa_train.fault import NoFault, TruncatedSign
from circa_train.jobs import verify_every
from circa_train.nn.models.registry import build_model
from circa_train.nn.sites import relu_sites
from circa_train.verify import Verdict, checking

SCRIPT = Path(__file__).parents[2] / "scripts" / "verify.py"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a plain, a fine-tuned and a mixed checkpoint of one untrained network."""
    folder = tmp_path_factory.mktemp("checkpoints")
    splits = load_data("digits")
    arguments = {
        "name": "resnet8",
        "num_classes": 10,
        "image_size": splits.image_size,
        "in_channels": 1,
        "width": 0.25,
    }
    torch.manual_seed(0)
    model = build_model(**arguments)
    sites = [name for name, _ in relu_sites(model, (1, splits.image_size, splits.image_size))]
    data = {
        "name": "digits",
        "mean": list(splits.mean),
        "std": list(splits.std),
        "class_names": list(splits.class_names),
    }
    by_site = {name: (TruncatedSign(6 + i) if i % 2 else NoFault()).to_dict() for i, name in enumerate(sites)}
    faults = {"plain": None, "tuned": TruncatedSign(9, "negpass").to_dict(), "mixed": {"sites": by_site}}
    for name, fault in faults.items():
        metadata = {
            "model": arguments,
            "data": data,
            "fault": fault,
            "frac_bits": None if fault is None else 14,
        }
        save_checkpoint(folder / f"{name}.pt", model, metadata)
    return folder


@pytest.fixture(scope="module")
def exported(checkpoints: Path) -> Path:
    """An export folder of the plain network."""
    splits, model = load_data("digits"), load_network(checkpoints / "plain.pt")
    batches = Batches(splits.train.subset(torch.arange(64)), 64, mean=splits.mean, std=splits.std)
    sites = [name for name, _ in relu_sites(model, (1, splits.image_size, splits.image_size))]
    specs = {name: TruncatedSign(10 + i) if i else NoFault() for i, name in enumerate(sites)}
    images = splits.test.subset(torch.arange(2))
    save_export(
        checkpoints / "exported",
        to_integers(model, specs, batches),
        images=images.images,
        labels=images.labels,
        data={"name": "digits", "mean": splits.mean, "std": splits.std, "class_names": splits.class_names},
    )
    return checkpoints / "exported"


@pytest.fixture
def verify(tmp_path: Path, checkpoints: Path, monkeypatch: pytest.MonkeyPatch):
    """Run the script in this process: (exit code, the result or None)."""
    spec = importlib.util.spec_from_file_location("verify", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(checkpoint: str, *overrides: str) -> tuple[int, dict[str, Any] | None]:
        arguments = [
            f"checkpoint={checkpoints / checkpoint}",
            f"run.root={tmp_path}",
            "run.device=cpu",
            *overrides,
        ]
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
        code = 0
        try:
            module.main()
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        stored = sorted((tmp_path / "verify").glob("*/result.json"))
        return code, json.loads(stored[0].read_text()) if stored else None

    return run


def test_every_site_agrees(verify, capfd: pytest.CaptureFixture[str]) -> None:
    code, stored = verify("plain.pt", "fault=poszero", "fault.k=12", "verify.samples=300")
    assert code == 0
    assert stored is not None
    assert stored["kind"] == "verify"
    result = stored["result"]
    assert result["mismatches"] == 0
    assert len(result["sites"]) == 7
    assert result["values"] == 7 * 300
    assert result["left_out"] == []
    site = result["sites"][0]
    assert site["mismatches"] == {"simulator": 0, "circuit": 0, "garbled": 0, "shares": 0}
    assert [circuit["letter"] for circuit in site["circuits"]] == ["a", "b", "c", "d"]
    assert all(circuit["seconds"]["garble"] > 0 for circuit in site["circuits"])
    assert [row["circuit"] for row in result["network"]] == [
        "(a) full",
        "(b) exact",
        "(c) stochastic",
        "(d) truncated",
    ]
    assert result["network"][0]["relus"] == sum(site["relus"] for site in result["sites"])
    printed = capfd.readouterr()
    assert "7 sites, 2100 values, each in four ways: no mismatch" in printed.out + printed.err
    assert "9396/4948/2004/1236" in printed.out + printed.err


def test_a_tuned_checkpoint_brings_its_own_faults(verify) -> None:
    code, stored = verify("tuned.pt", "verify.samples=64", "verify.sites=2")
    assert code == 0
    assert stored is not None
    assert stored["result"]["fault"] == TruncatedSign(9, "negpass").to_dict()
    assert stored["result"]["frac_bits"] == 14
    assert [site["k"] for site in stored["result"]["sites"]] == [[9], [9]]


def test_exact_sites_are_listed_with_their_reason(verify) -> None:
    code, stored = verify("mixed.pt", "verify.samples=64")
    assert code == 0
    assert stored is not None
    assert [site["k"] for site in stored["result"]["sites"]] == [[7], [9], [11]]
    assert len(stored["result"]["left_out"]) == 4
    assert all("exact ReLU" in site["reason"] for site in stored["result"]["left_out"])


def test_an_export_folder_is_verified_on_its_own_vectors(verify, exported: Path, tmp_path: Path) -> None:
    code, stored = verify("exported", "verify.samples=500")
    assert code == 0
    assert stored is not None
    result = stored["result"]
    assert (result["model"], result["data"], result["split"], result["draw"]) == (
        "exported",
        "digits",
        "test vectors",
        0,
    )
    assert [site["k"] for site in result["sites"]] == [[11], [12], [13], [14], [15], [16]]
    assert result["mismatches"] == 0
    assert result["values"] == 6 * 500
    assert [site["site"] for site in result["left_out"]] == ["relu"]
    rescaled = result["rescalings"]
    ways = {layer["layer"]: set(layer["mismatches"]) for layer in rescaled}
    assert all({"executor", "reader", "parties"} <= found for found in ways.values())
    riding = [layer for layer in rescaled if layer["site"]]
    assert len(riding) == 6  # the first ReLU is exact: what it lets through has a mask of its own
    assert all("simulator" in layer["mismatches"] and 0 < layer["up"] < 500 for layer in riding)
    damaged = tmp_path / "damaged"
    shutil.copytree(exported, damaged)
    (damaged / "vectors.safetensors").write_bytes((damaged / "vectors.safetensors").read_bytes()[:-1] + b"?")
    assert verify(str(damaged))[0] == 2
    assert verify("exported", "fault=poszero")[0] == 2  # it brings its own
    assert verify("exported", "verify.images=1")[0] == 2  # samples come from all of its vectors


@pytest.mark.slow
def test_every_sign_test_of_some_images(verify, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ("verify.samples=all", "verify.images=20", "verify.batch_size=8")
    code, stored = verify("mixed.pt", *arguments)
    assert code == 0
    assert stored is not None
    every = stored["result"]["every"]
    relus = {site["site"]: site["relus"] for site in every["sites"]}
    assert every["compared"] == 20 * sum(relus.values())
    assert (every["mismatches"], every["images_that_differ"]) == (0, 0)
    assert every["accuracy"] == every["evaluation_accuracy"]
    assert all("exact ReLU" in site["reason"] for site in every["skipped"])
    assert all(site["sign_tests"] > 0 and site["sign_tests"] % 20 == 0 for site in every["skipped"])
    assert len(every["sites"]) + len(every["skipped"]) == 7
    assert all(len(site["digests"]["gates"]) == 64 for site in every["sites"])
    assert not every["rates"]["doubted"]
    assert every["aes"]["per_second"] > 0 < every["aes"]["ceiling_per_second"]
    printed = capfd.readouterr()
    assert "accuracy from the outcomes of the circuits" in printed.out + printed.err


@pytest.mark.slow
def test_every_sign_test_of_an_export_folder(verify, exported: Path) -> None:
    code, stored = verify("exported", "verify.samples=all", "split=vectors")
    assert code == 0
    assert stored is not None
    every = stored["result"]["every"]
    assert (every["images"], every["draw"], every["mismatches"]) == (2, 0, 0)
    assert every["rescaling"] == "offset"
    assert [site["site"] for site in every["skipped"]] == ["relu"]


@pytest.mark.slow
def test_every_sign_test_of_an_export_folder_on_its_data(verify, exported: Path) -> None:
    code, stored = verify("exported", "verify.samples=all", "verify.images=10")
    assert code == 0
    assert stored is not None
    every = stored["result"]["every"]
    assert (every["images"], every["mismatches"], every["images_that_differ"]) == (10, 0, 0)
    assert every["accuracy"] == every["evaluation_accuracy"]


def test_a_mismatch_is_recorded_named_and_ends_with_1(
    verify, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    honest = checking.run_locally

    def one_bit_off(*args: Any, **options: Any) -> Any:
        run = honest(*args, **options)
        run.values[np.argmax(run.values)] = 0
        return run

    monkeypatch.setattr(checking, "run_locally", one_bit_off)
    arguments = ("plain.pt", "fault=poszero", "verify.samples=50", "verify.sites=relu")
    code, stored = verify(*arguments)
    assert code == 1
    assert stored is not None
    assert stored["result"]["mismatches"] == 1
    (named,) = stored["result"]["sites"][0]["named"]
    assert (named["site"], named["way"], named["want"], named["got"]) == ("relu", "garbled", 1, 0)
    printed = capfd.readouterr()
    assert named["text"] in printed.out + printed.err
    assert verify(*arguments)[0] == 1  # the stored result says so again


@pytest.mark.parametrize("doubt", ["an image differs", "a rate is doubted"])
def test_other_images_or_rates_than_they_should_be_end_with_1(
    verify, monkeypatch: pytest.MonkeyPatch, doubt: str
) -> None:
    """No single answer is wrong, and yet the whole is not what it should be."""
    if doubt == "an image differs":
        honest = verify_every.one_draw

        def one_image_off(*args: Any) -> Any:
            right = honest(*args)
            right[0] = ~right[0]
            return right

        monkeypatch.setattr(verify_every, "one_draw", one_image_off)
    else:
        monkeypatch.setattr(Verdict, "doubted", property(lambda self: True))
    arguments = ("plain.pt", "fault=poszero", "verify.samples=all", "verify.images=4", "verify.sites=relu")
    code, stored = verify(*arguments)
    assert stored is not None
    assert (code, stored["result"]["mismatches"], stored["result"]["verified"]) == (1, 0, False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("plain.pt",), "trained with exact ReLUs; give fault=poszero"),
        (("plain.pt", "fault=uniform"), "nothing can be verified"),
        (("mixed.pt", "verify.sites=relu"), "nothing can be verified: relu: an exact ReLU"),
        (
            ("plain.pt", "fault=poszero", "verify.sites=relu9"),
            "no ReLU site is called relu9; the sites are relu, ",
        ),
        (
            ("plain.pt", "fault=poszero", "verify.transport=pigeon"),
            "transport = 'pigeon' is not one of memory, socket",
        ),
        (("plain.pt", "fault=poszero", "verify.samples=0"), "nothing to verify"),
        (("plain.pt", "fault=poszero", "verify.samples=some"), "neither a number of sign tests per site nor"),
        (("plain.pt", "fault=poszero", "verify.images=0"), "verify.images = 0 is outside [1, "),
        (("plain.pt", "fault=poszero", "verify.batch_size=0"), "verify.batch_size = 0"),
    ],
)
def test_what_cannot_be_verified_ends_with_2(
    verify, arguments: tuple[str, ...], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    code, stored = verify(*arguments)
    assert code == 2
    assert stored is None
    assert message in capfd.readouterr().err
