"""The notebooks run on embedded data, their two forms agree, and they hold no code of their own."""

from __future__ import annotations

import ast
import json
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "notebooks").glob("*.py"))

jupytext = pytest.importorskip("jupytext")
nbformat = pytest.importorskip("nbformat")


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A kernel that is the running Python, whatever kernels the machine has, and finds this checkout."""
    spec = {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "the running Python",
        "language": "python",
        "env": {
            "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
            "OMP_NUM_THREADS": "2",
            "TMPDIR": str(tmp_path),
        },
    }
    folder = tmp_path / "kernels" / "running"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    return "running"


def test_there_are_notebooks() -> None:
    assert [path.stem for path in SOURCES] == [
        "01_fault_law",
        "02_accuracy_vs_truncation",
        "03_finetune_and_export",
    ]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_both_forms_say_the_same(source: Path) -> None:
    paired = source.with_suffix(".ipynb")
    remedy = f"run: jupytext --update --to ipynb notebooks/{source.name}"
    assert paired.is_file(), remedy
    script, notebook = jupytext.read(source), nbformat.read(paired, as_version=4)
    nbformat.validate(notebook)
    first, second = (
        [(cell.cell_type, cell.source, cell.metadata.get("tags", [])) for cell in form.cells]
        for form in (script, notebook)
    )
    assert first == second, remedy
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells), (
        "commit it without outputs"
    )


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_nothing_is_defined(source: Path) -> None:
    tree = ast.parse(source.read_text(encoding="utf-8"))
    defined = [
        node
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef))
    ]
    assert not defined, "what a notebook needs belongs into the package"


def execute(source: Path, kernel: str) -> list[str]:
    """Run a notebook from its folder; the kinds of everything it displayed. A failing cell raises with its
    traceback.
    """
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = jupytext.read(source)
    client = nbclient.NotebookClient(
        notebook, timeout=1500, kernel_name=kernel, resources={"metadata": {"path": str(source.parent)}}
    )
    client.execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [
        output.text for output in outputs if output.output_type == "stream" and output.name == "stderr"
    ]
    return [kind for output in outputs for kind in output.get("data", {})]


def test_the_fault_law(kernel: str) -> None:
    shown = execute(SOURCES[0], kernel)
    assert shown.count("image/png") == 2
    assert shown.count("text/html") == 2


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_accuracy_against_truncation(kernel: str) -> None:
    shown = execute(SOURCES[1], kernel)
    assert shown.count("image/png") == 4


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fine_tuning_and_export(kernel: str) -> None:
    assert execute(SOURCES[2], kernel).count("image/png") >= 1
