"""The folder: there and back, nothing believed that does not have its checksum, and a reader that only has
numpy.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from onnx.reference import ReferenceEvaluator
from torch import nn

from circa_train import NoFault, TruncatedSign, build_model
from circa_train.data import ImageSet
from circa_train.export import (
    ExportError,
    check_export,
    is_export,
    load_export,
    open_export,
    save_export,
    to_integers,
)
from circa_train.export.folder import FILES, SUMS
from circa_train.nn.control import set_draw
from circa_train.nn.convert import with_stochastic_relus

REFUSES_TORCH = """
import runpy, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "safetensors", "circa_train", "onnx"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def write(folder, conversion, splits, **options):
    shown: ImageSet = splits.test.subset(torch.arange(2))
    data = {
        "name": splits.name,
        "mean": splits.mean,
        "std": splits.std,
        "class_names": splits.class_names,
        "seed": 0,
    }
    return save_export(folder, conversion, images=shown.images, labels=shown.labels, data=data, **options)


@pytest.fixture(scope="module")
def folder(conversion, splits, tmp_path_factory):
    place = tmp_path_factory.mktemp("exports") / "export"
    write(place, conversion, splits, accuracy={"mean": 0.5}, provenance={"checkpoint": "best.pt"})
    return place


@pytest.fixture
def copy(folder, tmp_path):
    place = tmp_path / "copy"
    place.mkdir()
    for file in folder.iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    return place


def test_there_and_back(folder, conversion, splits, images):
    export = open_export(folder, seed=3)
    assert is_export(folder)
    assert not is_export(folder.parent)
    assert export.network.plan.layers == conversion.network.plan.layers
    assert export.network.plan.scales == conversion.network.plan.scales
    assert export.network.specs == conversion.network.specs
    for network in (export.network, conversion.network):
        set_draw(network, 9)
    assert torch.equal(export.network(images), conversion.network(images))
    manifest = export.manifest
    assert manifest["prime"] == 2138816513
    assert manifest["class_names"] == list(splits.class_names)
    assert manifest["accuracy"] == {"mean": 0.5}
    assert manifest["provenance"] == {"checkpoint": "best.pt"}
    assert manifest["data"] == {"name": splits.name, "seed": 0}
    relus = [layer for layer in manifest["layers"] if layer["kind"] == "relu"]
    assert all((layer["mode"], layer["k"]) == ("poszero", 8) for layer in relus)
    assert {"batch_norm": "bn1", "into": "conv1"} in manifest["folding"]
    assert len(manifest["ranges"]["layers"]) == len(manifest["layers"])
    check_export(export)


def test_the_same_network_gives_the_same_bytes(folder, conversion, splits, tmp_path):
    digest = write(
        tmp_path / "again", conversion, splits, accuracy={"mean": 0.5}, provenance={"checkpoint": "best.pt"}
    )
    assert digest == open_export(folder).digest
    assert load_export(folder, digest=digest).plan.output == "linear"
    with pytest.raises(ExportError, match="has the digest"):
        open_export(folder, digest="0" * 64)


@pytest.mark.parametrize("name", [*FILES, SUMS])
def test_a_changed_byte_in_any_file_is_refused_by_name(copy, name):
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(ExportError, match=r"is damaged.*" if name == SUMS else rf"{name} is damaged"):
        open_export(copy)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused_by_name(copy, name):
    (copy / name).unlink()
    with pytest.raises(ExportError, match=name):
        open_export(copy)


def test_extra_files_and_other_folders_are_refused(copy, tmp_path):
    (copy / "extra.py").write_text("")
    with pytest.raises(ExportError, match=r"extra\.py"):
        open_export(copy)
    with pytest.raises(ExportError, match="no export folder"):
        open_export(tmp_path)


def rewritten(copy, name, content):
    """What someone can do who also rewrites the checksums."""
    (copy / name).write_bytes(content)
    lines = [f"{hashlib.sha256((copy / file).read_bytes()).hexdigest()}  {file}\n" for file in FILES]
    (copy / SUMS).write_text("".join(lines))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format=4), "of format 4, none of those this version reads: 1, 2, 3"),
        (lambda m: m.update(rescaling="nearest"), "rescaling = 'nearest'"),
        (lambda m: m.update(largest_value=7), "largest_value is 7, but 1069408256 by the layers"),
        (lambda m: m.update(offset=534704127), "offset is 534704127, and 534704128 by the prime"),
        (lambda m: m.update(round_trips=3), "round_trips is 3"),
        (lambda m: m["layers"][2]["shares"].update(client="local"), "layer 'relu': shares are"),
        (
            lambda m: next(e for e in m["layers"] if e["kind"] == "rescale").update(bits=30),
            "bits to drop = 30",
        ),
        (lambda m: m.update(prime=15), "prime = 15"),
        (lambda m: m.pop("layers"), "layers"),
        (lambda m: m["layers"][1].update(kind="exec"), "unknown kind 'exec'"),
        (lambda m: m["layers"][1].update(inputs=["linear"]), "reads what was not computed"),
        (lambda m: m["layers"][-1].update(name="other"), "same int32 tensors"),
        (lambda m: m["layers"][2].update(k=31), "k = 31"),
        (lambda m: m["layers"][2].update(mode="sometimes"), "mode = 'sometimes'"),
        (lambda m: m["output"].update(layer="nowhere"), "no output layer 'nowhere'"),
        (lambda m: m["layers"][2].update(factor=[1, 0]), "ZeroDivisionError"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(copy, change, message):
    manifest = json.loads((copy / "manifest.json").read_text())
    change(manifest)
    rewritten(copy, "manifest.json", json.dumps(manifest).encode())
    with pytest.raises(ExportError, match=message):
        open_export(copy)


@pytest.mark.parametrize("kind", ["logits", "exact"])
@pytest.mark.parametrize("how", ["offset", "floor", "local"])
def test_logits_that_the_weights_do_not_give_are_found(copy, kind, how):
    vectors = safetensors.torch.load((copy / "vectors.safetensors").read_bytes())
    vectors[f"{kind}.{how}"] += 1
    rewritten(copy, "vectors.safetensors", safetensors.torch.save(vectors))
    with pytest.raises(ExportError, match=rf"{kind}\.{how} of the test vectors"):
        check_export(open_export(copy))


def test_vectors_that_the_weights_do_not_give_are_found(copy):
    sound = (copy / "vectors.safetensors").read_bytes()
    vectors = safetensors.torch.load(sound)
    del vectors["pairs.relu.gate"]
    rewritten(copy, "vectors.safetensors", safetensors.torch.save(vectors))
    with pytest.raises(ExportError, match=r"pairs\.relu\.gate is missing"):
        check_export(open_export(copy))
    rewritten(copy, "vectors.safetensors", sound)
    weights = safetensors.torch.load((copy / "weights.safetensors").read_bytes())
    weights["layer2.0.conv1.weight"][0, 0, 0, 0] += 1
    rewritten(copy, "weights.safetensors", safetensors.torch.save(weights))
    with pytest.raises(ExportError, match=r"layer layer2\.0\.conv1"):
        check_export(open_export(copy))


@pytest.mark.parametrize("change", [{"k": 7}, {"k": 9}, {"mode": "negpass"}, {"mode": "exact"}])
def test_another_sign_test_at_any_site_is_found(copy, change):
    """Also where the two images meet no tie: the pairs of the site do."""
    before = json.loads((copy / "manifest.json").read_text())
    for place, entry in enumerate(before["layers"]):
        if entry["kind"] != "relu":
            continue
        manifest = json.loads(json.dumps(before))
        manifest["layers"][place] |= change
        if change.get("mode") == "exact":
            del manifest["layers"][place]["k"]
        rewritten(copy, "manifest.json", json.dumps(manifest).encode())
        with pytest.raises(ExportError, match=re.escape(entry["name"]) if "k" in change else "test vectors"):
            check_export(open_export(copy))


VERSION_1 = Path(__file__).with_name("version1")


def test_a_folder_of_the_first_format_is_read_and_checked(tmp_path):
    export = open_export(VERSION_1)
    assert (export.manifest["format"], export.network.rescaling) == (1, "floor")
    assert export.network.specs["relu2"] == TruncatedSign((0, 3, 9, 12), "negpass")
    check_export(export)
    inputs = export.vectors["inputs"].long()
    for how in ("floor", "local", "offset"):
        network = load_export(VERSION_1, rescaling=how, overflow="wrap")
        logits = network.run(inputs)
        if how != "offset":
            assert torch.equal(logits, export.vectors[f"logits.{how}"].long())
    exact = {how: load_export(VERSION_1, rescaling=how).run(inputs) for how in ("floor", "offset")}
    assert 0 < int((exact["offset"] - exact["floor"]).abs().max()) < int(exact["floor"].abs().max()) / 100
    assert export.real_network()(torch.zeros(1, 3, 6, 6)).shape == (1, 3)
    done = read_with_numpy_alone(VERSION_1, tmp_path)  # its own reader
    assert done.returncode == 0, done.stderr
    copy = tmp_path / "copy"
    shutil.copytree(VERSION_1, copy)
    vectors = safetensors.torch.load((copy / "vectors.safetensors").read_bytes())
    vectors["logits.local"] += 1
    rewritten(copy, "vectors.safetensors", safetensors.torch.save(vectors))
    with pytest.raises(ExportError, match=r"logits\.local"):
        check_export(open_export(copy))


def test_masks_that_are_not_the_addressed_ones_are_found(copy):
    vectors = safetensors.torch.load((copy / "vectors.safetensors").read_bytes())
    vectors["mask.relu"][0, 0, 0, 0] += 1
    rewritten(copy, "vectors.safetensors", safetensors.torch.save(vectors))
    with pytest.raises(ExportError, match=r"mask\.relu"):
        check_export(open_export(copy))


def test_a_folder_is_replaced_whole_and_a_stranger_is_not(conversion, splits, tmp_path):
    place = tmp_path / "export"
    write(place, conversion, splits)
    first = open_export(place).manifest["accuracy"]
    write(place, conversion, splits, accuracy={"mean": 1.0})
    assert (first, open_export(place).manifest["accuracy"]) == (None, {"mean": 1.0})
    assert [path.name for path in tmp_path.iterdir()] == ["export"]
    stranger = tmp_path / "precious"
    stranger.mkdir()
    with pytest.raises(ExportError, match="is no export folder"):
        write(stranger, conversion, splits)


def read_with_numpy_alone(folder, tmp_path):
    script = tmp_path / "isolated.py"
    script.write_text(REFUSES_TORCH)
    command = [sys.executable, str(script), str(folder / "reader.py"), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_the_reader_reproduces_the_logits_with_numpy_alone(folder, copy, tmp_path):
    done = read_with_numpy_alone(folder, tmp_path)
    assert (done.returncode, done.stdout) == (0, "largest difference from the recorded logits: 0\n"), (
        done.stderr
    )
    vectors = safetensors.torch.load((copy / "vectors.safetensors").read_bytes())
    vectors["logits.local"][0, 0] += 5
    (copy / "vectors.safetensors").write_bytes(safetensors.torch.save(vectors))
    done = read_with_numpy_alone(copy, tmp_path)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert "vectors.safetensors is damaged" in done.stderr
    rewritten(copy, "vectors.safetensors", safetensors.torch.save(vectors))
    done = read_with_numpy_alone(copy, tmp_path)
    assert (done.returncode, done.stdout) == (1, "largest difference from the recorded logits: 5\n"), (
        done.stderr
    )


def test_the_reader_is_as_short_as_its_readme_says():
    import circa_train.export.readme as readme

    code = [
        line
        for line in readme.reader_text().split('if __name__ == "__main__":')[0].splitlines()
        if line.strip() and not line.startswith("#")
    ]
    assert len(code) <= 95
    assert "95 lines" in readme.README


def every_kind():
    """What is not in a plain ResNet: masks, concatenation, maximum pooling, groups, k per channel, exact
    sites.
    """

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 4, 3, padding=1)
            self.norm = nn.BatchNorm2d(8)
            self.second = nn.Conv2d(8, 4, 3, stride=2, padding=2, dilation=2, groups=4)
            self.fc = nn.Linear(4 * 3 * 3, 4)
            self.relu = nn.ReLU()

        def forward(self, x):
            x = self.relu(self.first(x))
            x = torch.cat([x, nn.functional.max_pool2d(x, 3, 1, padding=1)], 1)
            x = self.relu(self.second(self.relu(self.norm(x))))
            return self.fc(torch.flatten(nn.functional.avg_pool2d(x, 2, 1), 1))

    torch.manual_seed(0)
    mixed = Mixed().eval()
    masks = {"relu": torch.rand(8, 8, 8) < 0.5, "layer1.0.relu1": torch.tensor([True, True, False, True] * 2)}
    reduction = {"masks": masks, "sites": ["layer2.0.relu1"]}
    reduced = build_model("resnet8", num_classes=4, image_size=8, width=0.5, reduction=reduction)
    specs = {
        "relu": TruncatedSign((8, 0, 3, 12), "negpass"),
        "relu#2": NoFault(),
        "relu#3": TruncatedSign(20),
    }
    return {"mixed": (mixed, specs), "reduced": (reduced.eval(), TruncatedSign(9, "negpass"))}


@pytest.mark.parametrize("name", ["mixed", "reduced"])
def test_every_kind_of_layer_reaches_reader_onnx_and_simulator(name, splits, images, tmp_path):
    model, specs = every_kind()[name]
    conversion = to_integers(model, specs, [images])
    write(tmp_path / "export", conversion, splits)
    done = read_with_numpy_alone(tmp_path / "export", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    export = open_export(tmp_path / "export", seed=5)
    check_export(export)
    with torch.no_grad():
        wanted = model(images)
        session = ReferenceEvaluator(onnx.load_model_from_string(export.onnx))
        found = session.run(None, {"input": images.numpy()})[0]
        assert np.abs(found - wanted.numpy()).max() < 1e-4 * float(wanted.abs().max())
        frac_bits = export.network.plan.format.accumulator_frac_bits
        converted = with_stochastic_relus(model, export.network.specs, frac_bits=frac_bits, seed=5)
        real = export.real_network(seed=5)
        for network in (converted, real):
            set_draw(network, 2)
        assert torch.allclose(real(images), converted(images), atol=1e-4)


def test_onnx_nodes_have_the_names_of_the_layers(folder):
    model = onnx.load(str(Path(folder) / "network.onnx"))
    layers = {layer["name"] for layer in json.loads((folder / "manifest.json").read_text())["layers"]}
    assert {node.name for node in model.graph.node} <= layers
    onnx.checker.check_model(model, full_check=True)
