"""Networks of HummingBird's bit windows: integers in Z_2^64, exported exactly, or refused by name."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from circa_train import NoFault, TruncatedSign
from circa_train.export import ExportError, check_export, open_export, save_export, to_integers
from circa_train.export.manifest import restore
from circa_train.export.pairs import window_pairs
from circa_train.fault import BitWindow
from circa_train.nn import module_at
from circa_train.pi.network import load_network


@pytest.fixture(scope="module")
def folder(trained, splits, images, tmp_path_factory):
    """Windows that are too narrow for some values and drop enough bits to err."""
    network = to_integers(trained, BitWindow(12, 18), [images], rescaling="floor")
    shown = splits.test.subset(torch.arange(2))
    data = {"name": "x", "mean": splits.mean, "std": splits.std, "class_names": splits.class_names}
    place = tmp_path_factory.mktemp("ring") / "export"
    save_export(place, network, images=shown.images, labels=shown.labels, data=data)
    return place


def test_a_network_of_bit_windows_is_there_and_back(folder):
    export = open_export(folder)
    check_export(export)
    assert set(export.network.specs.values()) == {BitWindow(12, 18)}
    manifest = export.manifest
    assert (manifest["prime"], manifest["ring_bits"], manifest["rescaling"]) == (None, 64, "floor")
    assert list(manifest["rescalings"]) == ["floor"]
    relu = next(layer for layer in manifest["layers"] if layer["kind"] == "relu")
    assert (relu["mode"], relu["low"], relu["high"]) == ("bit_window", 12, 18)
    assert not {"offset", "round_trips"} & manifest.keys()
    masks = export.vectors["mask.relu"]
    assert masks.dtype == torch.int64
    assert int(masks.max()) > 2**62
    assert not torch.equal(export.vectors["logits.floor"], export.vectors["exact.floor"])


def test_its_reader_computes_it_with_numpy_alone(folder):
    command = [sys.executable, str(folder / "reader.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "largest difference from the recorded logits: 0\n"


def test_the_gates_are_those_of_shares_modulo_2_64_in_python(folder):
    """The executor's gates, from the definition in Python's own integers."""
    export = open_export(folder)
    test = next(iter(export.network.sign_tests(export.vectors["inputs"].long())))
    some = slice(0, 4000)
    x, r, s = (value.reshape(-1)[some].tolist() for value in (test.x, test.mask, test.gate))
    for value, mask, gate in zip(x, r, s, strict=True):
        shares = (value + mask) % 2**64, -mask % 2**64
        window = sum((share >> 12) % 2**6 for share in shares) % 2**6
        assert gate == (window < 2**5)
    assert {(value > 0) == gate for value, gate in zip(x, s, strict=True) if value} == {True, False}


@pytest.mark.parametrize("change", [(11, 18), (13, 18), (12, 17), (12, 19)])
def test_the_pairs_tell_a_window_from_its_neighbours(change):
    pairs = window_pairs(BitWindow(12, 18))
    assert not torch.equal(BitWindow(*change).gate(pairs["x"], pairs["mask"]).long(), pairs["gate"])


@pytest.mark.parametrize("rescaling", ["offset", "local"])
def test_a_rescaling_of_a_field_is_refused_by_name(trained, images, folder, rescaling):
    with pytest.raises(ExportError, match=rf"rescaling={rescaling} is of a field.*rescaling=floor"):
        to_integers(trained, BitWindow(12, 18), [images], rescaling=rescaling)
    with pytest.raises(ExportError, match=rf"rescaling={rescaling} is of a field.*rescaling=floor"):
        open_export(folder, rescaling=rescaling)


def test_private_inference_over_a_field_refuses_it_by_name(folder):
    with pytest.raises(ExportError, match=r"lives in the ring Z_2\^64.*export with fault=poszero"):
        load_network(folder)


def test_a_field_and_a_ring_in_one_network_are_refused(trained, images, conversion):
    specs = dict.fromkeys(conversion.network.specs, BitWindow(12, 18))
    first, second, *_ = specs
    with pytest.raises(ExportError, match=r"BitWindow is a sign test of shares modulo 2\^64"):
        to_integers(trained, specs | {first: TruncatedSign(8)}, [images], rescaling="floor")
    mixed = to_integers(trained, specs | {second: NoFault()}, [images], rescaling="floor")
    assert mixed.network.plan.format.ring
    assert module_at(mixed.network, second).spec == NoFault()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(ring_bits=32), "ring_bits is 32"),
        (lambda m: m.update(prime=2138816513), "ring_bits is 64 beside prime 2138816513"),
        (lambda m: m["layers"][2].update(mode="poszero"), "is no sign test of the ring"),
        (lambda m: m["layers"][2].update(k=3), "is no sign test of the ring"),
        (lambda m: m["layers"][2].update(low=18), "bit window"),
        (lambda m: m.update(ring_bits=None, prime=2138816513), "is no sign test of the field"),
    ],
)
def test_a_manifest_of_neither_is_refused(folder, change, message):
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    with pytest.raises(ValueError, match=message):
        restore(manifest, dict(open_export(folder).network.plan.tensors))
