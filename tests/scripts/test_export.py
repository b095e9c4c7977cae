"""scripts/export.py, and scripts/evaluate.py on what it wrote, from the command line to the result."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from circa_train.checkpoint import save_checkpoint
from circa_train.data import load_data
from circa_train.export import check_export, open_export
from circa_train.fault import NoFault, TruncatedSign
from circa_train.nn.models.registry import build_model

SCRIPTS = Path(__file__).parents[2] / "scripts"
DATA = "synthetic:classes=4,size=8,channels=3,images=200"
TUNED = TruncatedSign(k=9, mode="negpass")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A plain checkpoint, and one that says it was tuned; untrained, but for BatchNorm statistics."""
    folder = tmp_path_factory.mktemp("checkpoints")
    splits = load_data(DATA)
    arguments = {"name": "resnet8", "num_classes": 4, "image_size": 8, "in_channels": 3, "width": 0.25}
    model = build_model(**arguments, seed=0).train()
    with torch.no_grad():
        for _ in range(10):
            model(torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    data = {
        "name": DATA,
        "mean": list(splits.mean),
        "std": list(splits.std),
        "class_names": list(splits.class_names),
    }
    metadata = {"model": arguments, "data": data, "fault": None, "frac_bits": None, "metrics": {}}
    save_checkpoint(folder / "plain.pt", model.eval(), metadata)
    save_checkpoint(folder / "tuned.pt", model, {**metadata, "fault": TUNED.to_dict(), "frac_bits": 18})
    return folder


def run(script, overrides, folder, monkeypatch):
    """Run a script's main in this process, in ``folder``; its result.json, or None."""
    monkeypatch.chdir(folder)
    common = ["run.progress=false", "run.device=cpu", f"hydra.run.dir={folder / script}"]
    monkeypatch.setattr(sys, "argv", [f"{script}.py", *common, *overrides])
    spec = importlib.util.spec_from_file_location(f"{script}_script", SCRIPTS / f"{script}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main()
    stored = folder / script / "result.json"
    return json.loads(stored.read_text())["result"] if stored.is_file() else None


def export(checkpoint, folder, monkeypatch, *overrides):
    small = ["images=24", "draws.count=2", "calibration_images=32"]
    return run("export", [f"checkpoint={checkpoint}", *small, *overrides], folder, monkeypatch)


def test_a_tuned_checkpoint_exports_with_its_own_sign_tests(checkpoints, tmp_path, monkeypatch):
    result = export(checkpoints / "tuned.pt", tmp_path, monkeypatch)
    exported = open_export(result["folder"], digest=result["digest"])
    check_export(exported)
    assert set(exported.network.specs.values()) == {TUNED}
    assert exported.network.plan.format.accumulator_frac_bits == result["frac_bits"] == 18
    manifest = exported.manifest
    accuracy = manifest["accuracy"]
    assert accuracy == result["accuracy"]
    assert accuracy["integer"]["images"] == 24
    assert len(accuracy["integer"]["draws"]) == len(accuracy["simulator"]["draws"]) == 2
    differences = [
        a - b for a, b in zip(accuracy["integer"]["draws"], accuracy["simulator"]["draws"], strict=True)
    ]
    assert accuracy["difference"]["mean"] == pytest.approx(sum(differences) / 2)
    assert accuracy["difference"]["low"] <= accuracy["difference"]["mean"] <= accuracy["difference"]["high"]
    assert manifest["provenance"]["checkpoint"] == "tuned.pt"
    assert manifest["provenance"]["trained_fault"]["k"] == 9
    assert manifest["provenance"]["model"]["name"] == "resnet8"
    assert str(tmp_path) not in (Path(result["folder"]) / "manifest.json").read_text()


def test_the_folder_is_evaluated_as_a_checkpoint_is(checkpoints, tmp_path, monkeypatch):
    result = export(
        checkpoints / "plain.pt", tmp_path, monkeypatch, "fault=poszero", "fault.k=6", "images=null"
    )
    common = [f"checkpoint={result['folder']}", "draws.count=2", "sites=true"]
    record = run("evaluate", [*common, "fault=checkpoint"], tmp_path, monkeypatch)
    quoted = result["accuracy"]
    assert record["accuracy"] == quoted["integer"]
    assert record["difference"] == pytest.approx(quoted["difference"])
    assert record["baseline_accuracy"] == pytest.approx(quoted["exact"])
    assert record["digest"] == result["digest"]
    assert (record["model"], record["data"], record["finetuned"]) == ("resnet8 width=0.25", DATA, False)
    assert [site["site"] for site in record["sites"]][:2] == ["relu", "layer1.0.relu1"]
    assert all(site["observed"]["values"] == site["expected"]["values"] for site in record["sites"])
    shutil.rmtree(tmp_path / "evaluate")
    coarse = run("evaluate", [*common, "fault=poszero", "fault.k=30"], tmp_path, monkeypatch)
    assert coarse["fault"]["k"] == 30
    assert coarse["accuracy"]["draws"] != record["accuracy"]["draws"]


def test_the_record_says_what_each_rescaling_does(checkpoints, tmp_path, monkeypatch, capfd):
    result = export(checkpoints / "tuned.pt", tmp_path, monkeypatch)
    assert result["rescaling"] == "offset"
    assert result["warning"] is None
    manifest = open_export(result["folder"]).manifest
    assert manifest["format"] == 3
    assert manifest["rescaling"] == "offset"
    assert manifest["vectors"]["images"] == 20
    measured = manifest["accuracy"]["rescalings"]
    assert list(measured) == ["offset", "floor", "local"]
    assert measured["offset"]["draws"] == manifest["accuracy"]["integer"]["draws"]
    assert measured["floor"]["minus_floor"]["mean"] == 0.0
    for name, found in measured.items():
        low, mean, high = (found["minus_floor"][key] for key in ("low", "mean", "high"))
        assert low == mean == high == 0 if name == "floor" else low < mean < high
    wraps = {name: sum(by_layer.values()) for name, by_layer in result["wraps_per_image"].items()}
    assert wraps["offset"] == wraps["floor"] == 0 < wraps["local"]
    assert manifest["rescalings"]["local"]["wraps_per_image"] == pytest.approx(wraps["local"])
    assert "rescaling=local" in capfd.readouterr().out


def test_local_is_exported_and_evaluated_with_its_warning(checkpoints, tmp_path, monkeypatch, capfd):
    result = export(checkpoints / "tuned.pt", tmp_path, monkeypatch, "rescaling=local", "fault.overflow=wrap")
    assert "rescaling=local is expected to ruin" in result["warning"]
    assert result["warning"] in capfd.readouterr().out
    record = run("evaluate", [f"checkpoint={result['folder']}", "fault=checkpoint", "fault.overflow=wrap",
                              "draws.count=2"], tmp_path, monkeypatch)  # fmt: skip
    assert (record["rescaling"], record["warning"]) == ("local", result["warning"])
    assert record["warning"] in capfd.readouterr().out
    shutil.rmtree(tmp_path / "evaluate")
    options = ["fault=checkpoint", "draws.count=2", "rescaling=floor"]
    record = run("evaluate", [f"checkpoint={result['folder']}", *options], tmp_path, monkeypatch)
    assert (record["rescaling"], record["warning"]) == ("floor", None)
    shutil.rmtree(tmp_path / "evaluate")
    with pytest.raises(SystemExit):
        run("evaluate", [f"checkpoint={checkpoints / 'tuned.pt'}", *options], tmp_path, monkeypatch)
    assert "is no export folder" in capfd.readouterr().err


def test_the_float_simulator_rescales_on_request(checkpoints, tmp_path, monkeypatch, capfd):
    options = [f"checkpoint={checkpoints / 'tuned.pt'}", "fault=checkpoint", "draws.count=2"]
    record = run("evaluate", [*options, "fault.rescale_bits=12"], tmp_path, monkeypatch)
    assert len(record["accuracy"]["draws"]) == 2
    shutil.rmtree(tmp_path / "evaluate")
    for script, refused in (("export", "an export rescales"), ("verify", "verify the folder")):
        with pytest.raises(SystemExit):
            run(script, [options[0], "fault=checkpoint", "fault.rescale_bits=12"], tmp_path, monkeypatch)
        assert refused in capfd.readouterr().err
    with pytest.raises(SystemExit):
        run("evaluate", [*options, "fault.rescale_bits=29"], tmp_path, monkeypatch)
    assert r"fault.rescale_bits = 29 is outside [0, 28]" in capfd.readouterr().err


def test_a_checkpoint_without_faults_and_exact_sites(checkpoints, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        export(checkpoints / "plain.pt", tmp_path, monkeypatch)
    assert "give fault=poszero" in capsys.readouterr().err
    assert not (tmp_path / "export").exists()
    result = export(checkpoints / "plain.pt", tmp_path, monkeypatch, "fault=none")
    assert set(open_export(result["folder"]).network.specs.values()) == {NoFault()}
    difference = result["accuracy"]["difference"]
    assert difference["low"] < difference["mean"] < difference["high"]  # the rescaling draws masks
    shutil.rmtree(tmp_path / "export")
    result = export(checkpoints / "plain.pt", tmp_path, monkeypatch, "fault=none", "rescaling=floor")
    difference = result["accuracy"]["difference"]
    assert difference["low"] == difference["mean"] == difference["high"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("fault.frac_bits=30",), "does not fit into the field"),
        (("fault=uniform",), "without a protocol over Z_p"),
        (("fault.overflow=saturate",), "a protocol cannot saturate"),
        (("rescaling=nearest",), "rescaling = 'nearest'"),
        (("largest_error=0",), "differs from the given one by up to"),
        (("images=0",), "images = 0"),
        (("split=dev",), "split = 'dev'"),
        (("weight_frac_bits=40",), "weight_frac_bits = 40"),
    ],
)
def test_refusals_say_why(checkpoints, tmp_path, monkeypatch, capsys, overrides, message):
    with pytest.raises(SystemExit) as ended:
        export(checkpoints / "tuned.pt", tmp_path, monkeypatch, *overrides)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "export" / "export").exists()


def test_a_tampered_folder_is_not_evaluated(checkpoints, tmp_path, monkeypatch, capsys):
    result = export(checkpoints / "tuned.pt", tmp_path, monkeypatch)
    manifest = Path(result["folder"]) / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"k": 9', '"k": 1', 1))
    with pytest.raises(SystemExit):
        run("evaluate", [f"checkpoint={result['folder']}", "fault=checkpoint"], tmp_path, monkeypatch)
    assert "manifest.json is damaged" in capsys.readouterr().err
