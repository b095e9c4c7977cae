"""Folders whose checksums are right and whose contents are not: refused by name, before anything is executed,
without waiting and without taking memory.
"""

from __future__ import annotations

import copy as copying
import hashlib
import json
import os
import random
import shutil
from pathlib import Path

import onnx
import pytest
import safetensors.torch
import torch
from onnx import numpy_helper
from torch import nn

from circa_train import NoFault, TruncatedSign
from circa_train.export import ExportError, check_export, open_export, save_export, to_integers
from circa_train.export.folder import FILES, LARGEST, SUMS, read_regular


class Every(nn.Module):
    """Most kinds of layers on 3 x 6 x 6 images: few numbers, so that the folder is read in milliseconds."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(6, 4, 3, groups=2)
        self.relu1, self.relu2, self.pool = nn.ReLU(), nn.ReLU(), nn.AvgPool2d(2)
        self.fc = nn.Linear(16, 3)

    def forward(self, x):
        x = self.relu1(self.one(x))
        x = torch.cat([x, nn.functional.pad(x[:, ::2, 1:], (0, 0, 1, 0))], 1)
        x = self.pool(self.relu2(self.two(x)))
        return self.fc(torch.flatten(x, 1))


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (2, 3, 6, 6), generator=generator, dtype=torch.uint8)
    specs = {"relu1": TruncatedSign((0, 3, 9, 12), "negpass"), "relu2": TruncatedSign(4)}
    conversion = to_integers(Every().eval(), specs, [(images.float() / 255 - 0.5) / 0.25])
    data = {"name": "made up", "mean": [0.5] * 3, "std": [0.25] * 3, "class_names": ["a", "b", "c"]}
    folder = tmp_path_factory.mktemp("sound") / "export"
    save_export(folder, conversion, images=images, labels=torch.tensor([1, 2]), data=data)
    check_export(open_export(folder))
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    shutil.copytree(sound, tmp_path / "copy")
    return tmp_path / "copy"


def rewrite(folder: Path, **files: bytes) -> None:
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_bytes(content)
    lines = [f"{hashlib.sha256((folder / file).read_bytes()).hexdigest()}  {file}\n" for file in FILES]
    (folder / SUMS).write_text("".join(lines))


def with_manifest(folder: Path, change) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    rewrite(folder, manifest__json=json.dumps(manifest).encode())


def entry(manifest, name):
    return next(layer for layer in manifest["layers"] if layer["name"] == name)


def first(manifest, kind):
    return next(layer for layer in manifest["layers"] if layer["kind"] == kind)


CONTRADICTIONS = {
    "a giant shape": lambda m: entry(m, "one").update(shape=[10**7, 10**7]),
    "another shape": lambda m: entry(m, "relu1").update(shape=[4, 6, 5]),
    "no shape": lambda m: entry(m, "one").update(shape=[]),
    "a giant input": lambda m: (
        m["input"].update(shape=[3, 10**6, 10**6]),
        m["layers"][0].update(shape=[3, 10**6, 10**6]),
    ),
    "a negative factor": lambda m: entry(m, "fc").update(factor=[-1, 1]),
    "a factor at the output": lambda m: m["output"].update(factor=[-1, 1]),
    "other fraction bits": lambda m: entry(m, "relu1").update(frac_bits=3),
    "accumulators": lambda m: m["frac_bits"].update(accumulator=1),
    "activations": lambda m: m["frac_bits"].update(activation=1),
    "stride": lambda m: entry(m, "one").update(stride=[2, 2]),
    "no stride": lambda m: entry(m, "one").update(stride=[0, 0]),
    "one stride": lambda m: entry(m, "one").update(stride=[1]),
    "groups": lambda m: entry(m, "two").update(groups=3),
    "no groups": lambda m: entry(m, "two").update(groups=0),
    "dilation": lambda m: entry(m, "one").update(dilation=[7, 7]),
    "a giant padding": lambda m: entry(m, "one").update(padding=[10**9, 10**9]),
    "k per channel": lambda m: entry(m, "relu1").update(k=[0, 3]),
    "site": lambda m: entry(m, "relu2").update(site=0),
    "site of a rescaling": lambda m: first(m, "rescale").update(site=70000),
    "bits": lambda m: first(m, "rescale").update(bits=1),
    "inputs": lambda m: first(m, "rescale").update(inputs=[]),
    "slice": lambda m: first(m, "slice").update(slices=[[0, 4, 0], [1, 6, 1], [0, 6, 1]]),
    "pad": lambda m: first(m, "pad").update(widths=[[0, 0], [-1, 0], [0, 0]]),
    "axis": lambda m: first(m, "concat").update(axis=7),
    "window": lambda m: first(m, "sum_pool").update(kernel=[0, 2]),
    "reshape": lambda m: first(m, "reshape").update(shape=[4, -4]),
    "shares": lambda m: entry(m, "relu1").update(shares=None),
    "trips": lambda m: m.update(round_trips=0),
    "classes": lambda m: m.update(class_names=["a"]),
    "mean": lambda m: m["input"].update(mean=[0.5]),
    "std": lambda m: m["input"].update(std=[0.25, 0.0, 0.25]),
    "text for numbers": lambda m: m["input"].update(std="abc"),
    "data": lambda m: m.update(data=3),
    "no data": lambda m: m.pop("data"),
    "ranges": lambda m: m["ranges"].update(layers=[1]),
    "vectors": lambda m: m.update(vectors=None),
    "a list": lambda m: m.update(layers={}),
    "prime": lambda m: m.update(prime=251),
    "input bits": lambda m: m["input"].update(frac_bits=2),
}


@pytest.mark.parametrize("name", list(CONTRADICTIONS))
def test_a_manifest_that_contradicts_itself_is_refused_when_it_is_read(folder, name):
    with_manifest(folder, CONTRADICTIONS[name])
    with pytest.raises(ExportError, match=r"manifest\.json"):
        open_export(folder)


@pytest.mark.parametrize("content", [b"[]", b"3", b"{", b"\xff", b"[" * 100_000, b'{"format": NaN}', b"null"])
def test_what_is_no_manifest_is_refused(folder, content):
    rewrite(folder, manifest__json=content)
    with pytest.raises(ExportError, match=r"manifest\.json"):
        open_export(folder)


def test_every_site_notices_k_off_by_one_and_the_other_mode_at_every_k(sound, tmp_path):
    """Folders for every k of a small field: no image need meet a tie for the pairs to tell."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 1), nn.ReLU(), nn.Flatten()).eval()
    images = torch.full((1, 1, 2, 2), 200, dtype=torch.uint8)
    data = {"name": "x", "mean": [0.5], "std": [0.5], "class_names": []}
    for k in range(0, 31, 3):
        conversion = to_integers(model, TruncatedSign(k), [(images.float() / 255 - 0.5) / 0.5], frac_bits=14)
        place = tmp_path / str(k)
        save_export(place, conversion, images=images, labels=torch.tensor([0]), data=data)
        original = json.loads((place / "manifest.json").read_text())
        for site in ("1", "3"):
            changes = [{"mode": "negpass"}, *({"k": other} for other in (k - 1, k + 1) if 0 <= other < 31)]
            for change in changes:
                manifest = copying.deepcopy(original)
                entry(manifest, site).update(change)
                rewrite(place, manifest__json=json.dumps(manifest).encode())
                with pytest.raises(ExportError, match=rf"pairs\.{site}\.gate"):
                    check_export(open_export(place))


def test_the_real_network_must_be_that_of_the_integers(folder, sound):
    model = onnx.load_model_from_string((sound / "network.onnx").read_bytes())
    changed = copying.deepcopy(model)
    for tensor in changed.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(0 * numpy_helper.to_array(tensor), tensor.name))
    zeros = changed.SerializeToString()
    changed = copying.deepcopy(model)
    changed.graph.node[0].op_type = "Neg"
    other_step = changed.SerializeToString()
    changed = copying.deepcopy(model)
    changed.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(
            numpy_helper.to_array(changed.graph.initializer[0])[:1], changed.graph.initializer[0].name
        )
    )
    cut = changed.SerializeToString()
    for content, message in (
        (zeros, "another network"),
        (other_step, "nodes of network.onnx"),
        (cut, "of shape"),
        (b"", r"vectors\.safetensors"),
        (b"not a model", r"vectors\.safetensors"),
    ):
        rewrite(folder, network__onnx=content)
        with pytest.raises(ExportError, match=message):
            check_export(open_export(folder))


def test_what_other_runtimes_compare_with_must_be_so(folder):
    """The logits of the real network and the number of overflows are recomputed."""
    with_manifest(folder, lambda m: m["vectors"]["real_logits"][1].__setitem__(0, 1e3))
    with pytest.raises(ExportError, match="real_logits of the test vectors"):
        check_export(open_export(folder))
    with_manifest(folder, lambda m: m["vectors"]["overflows"].update({"logits.offset": 1}))
    with pytest.raises(ExportError, match=r"overflows of logits\.offset are 0, the manifest says 1"):
        check_export(open_export(folder))


def test_vectors_of_other_shapes_types_and_names_are_refused(folder, sound):
    vectors = safetensors.torch.load((sound / "vectors.safetensors").read_bytes())
    changes = [
        {"inputs": vectors["inputs"][:1]},
        {"inputs": vectors["inputs"].float()},
        {"images": vectors["images"][:, :1].contiguous()},
        {"images": 255 - vectors["images"]},
        {"labels": vectors["labels"][:0]},
        {"more": vectors["labels"].clone()},
        {"mask.relu1": vectors["mask.relu1"] + 1},
        {"pairs.relu2.x": vectors["pairs.relu2.x"][:-1]},
        {"logits.offset": vectors["logits.offset"][:, :2].contiguous()},
    ]
    for change in changes:
        rewrite(folder, vectors__safetensors=safetensors.torch.save(vectors | change))
        with pytest.raises(ExportError, match="vectors"):
            check_export(open_export(folder))
    for name in vectors:
        rest = {key: value for key, value in vectors.items() if key != name}
        rewrite(folder, vectors__safetensors=safetensors.torch.save(rest))
        with pytest.raises(ExportError, match="vectors"):
            check_export(open_export(folder))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes with names")
@pytest.mark.parametrize("name", [*FILES, SUMS])
def test_a_pipe_is_refused_and_not_waited_for(folder, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(ExportError, match="no regular file|no export folder"):
        open_export(folder)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="the system has no /dev/zero")
@pytest.mark.parametrize("name", [*FILES, SUMS])
def test_a_link_to_a_device_is_refused(folder, name):
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")
    with pytest.raises(ExportError, match="no regular file|no export folder"):
        open_export(folder)


def test_a_file_of_giant_size_is_refused_unread(folder):
    with (folder / "manifest.json").open("ab") as file:
        file.truncate(LARGEST["manifest.json"] + 1)  # a hole: it takes no room on the disk
    with pytest.raises(ExportError, match=r"manifest\.json has \d+ bytes"):
        open_export(folder)
    with pytest.raises(ExportError, match="cannot be read"):
        read_regular(folder / "nothing", 10)


def test_links_to_files_are_followed(folder, tmp_path):
    for name in FILES:
        (folder / name).rename(tmp_path / f"blob-{name}")
        (folder / name).symlink_to(tmp_path / f"blob-{name}")
    check_export(open_export(folder))


def test_random_changes_of_the_manifest_end_in_our_words(folder, sound):
    """150 changes with right checksums: whatever is accepted also passes the vectors, or is named by them."""
    generator = random.Random(0)
    original = json.loads((sound / "manifest.json").read_text())
    values = (None, True, -1, 0, 1, 2, 3, 31, 2**31, 10**30, 0.5, "", "relu1", [], [1], [[1]], {}, {"a": 1})
    accepted = 0
    for _ in range(150):
        manifest = copying.deepcopy(original)
        place = manifest
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = generator.choice(keys)
            inner = place[key]
            if not isinstance(inner, (dict, list)) or not inner or generator.random() < 0.15:
                break
            place = inner
        if generator.random() < 0.2:
            del place[key]
        else:
            place[key] = generator.choice(values)
        rewrite(folder, manifest__json=json.dumps(manifest).encode())
        try:
            check_export(open_export(folder))
            accepted += 1
        except ExportError:
            pass
    assert accepted < 75  # ranges, provenance and the like are nobody's contradiction


def test_exact_sites_have_no_pairs_and_are_checked_all_the_same(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten()).eval()
    images = torch.randint(
        0, 256, (2, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    conversion = to_integers(model, NoFault(), [(images.float() / 255 - 0.5) / 0.25])
    data = {"name": "x", "mean": [0.5] * 3, "std": [0.25] * 3, "class_names": []}
    save_export(tmp_path / "e", conversion, images=images, labels=torch.tensor([0, 1]), data=data)
    export = open_export(tmp_path / "e")
    check_export(export)
    assert not any(name.startswith("pairs.1.g") for name in export.vectors)
