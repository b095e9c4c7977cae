"""The notebooks teach the public names on embedded data, hold no code of their own, agree in their two forms,
and are stored with what they give today.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

for needed in ("jupytext", "nbclient", "ipykernel"):
    pytest.importorskip(needed)
jupytext, nbformat = pytest.importorskip("jupytext"), pytest.importorskip("nbformat")
notebooks = pytest.importorskip("tests.notebooks")

SOURCES: list[Path] = notebooks.SOURCES
REMEDY = "run: make notebooks (it executes all of them, and stores them with their outputs)"

#: So that they are shown wherever the repository is, and a change of one does not weigh much.
LARGEST = 400_000

#: What would tell of the machine that stored it, or differ the next time: paths, addresses in memory, ids of
#: pandas' styles, times.
OF_A_MACHINE = r"/(?:tmp|home|root|Users|var|private)/| at 0x[0-9a-f]+|T_[0-9a-f]{5}|\d (?:s|ms|seconds)\b"


def stored(source: Path) -> Any:
    paired = source.with_suffix(".ipynb")
    assert paired.is_file(), REMEDY
    return nbformat.read(paired, as_version=4)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cell: Any) -> list[tuple[str, str]]:
    """What a cell displayed: each kind with its text, pictures and HTML without."""
    found = []
    for output in cell.outputs:
        if output.output_type == "stream":
            found.append((output.name, output.text))
        for kind, text in sorted(output.get("data", {}).items()):
            found.append((kind, text if kind == "text/plain" else ""))
    return found


def differences(stored: Any, now: Any) -> list[str]:
    """The cells that give something else than what is stored. Of those that vary between processors only the
    kinds of their outputs count.
    """
    found = []
    for number, (before, after) in enumerate(zip(code_cells(stored), code_cells(now), strict=True), start=1):
        want, got = shown(before), shown(after)
        if notebooks.VARIES in after.metadata.get("tags", []):
            want, got = [(kind, "") for kind, _ in want], [(kind, "") for kind, _ in got]
        if want != got:
            found.append(f"cell [{number}], {after.source[-60:]!r}: stored is {want}, it now gives {got}")
    return found


def test_there_are_notebooks() -> None:
    assert [path.stem for path in SOURCES] == [
        "01_fault_law",
        "02_accuracy_vs_truncation",
        "03_finetune_and_export",
    ]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_both_forms_say_the_same(source: Path) -> None:
    script, notebook = jupytext.read(source), stored(source)
    nbformat.validate(notebook)
    first, second = (
        [(cell.cell_type, cell.source, cell.metadata.get("tags", [])) for cell in form.cells]
        for form in (script, notebook)
    )
    assert first == second, REMEDY


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_nothing_is_defined(source: Path) -> None:
    tree = ast.parse(source.read_text(encoding="utf-8"))
    defined = [
        node
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef, ast.Lambda))
    ]
    assert not defined, "what a notebook needs belongs into the package"


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_no_program_is_started_and_no_inner_module_is_shown(source: Path) -> None:
    tree = ast.parse(source.read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not imported & {"subprocess", "os", "sys"}
    assert any(name.startswith("circa_train") for name in imported)
    for name in imported:
        assert not name.startswith("circa_train") or name.count(".") <= 1, f"{name} is no face of a part"


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_every_cell_was_executed_in_order_and_without_complaint(source: Path) -> None:
    notebook = stored(source)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), REMEDY
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [
        output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"
    ]
    assert any("image/png" in output.get("data", {}) for output in outputs), REMEDY
    assert {tag for cell in notebook.cells for tag in cell.metadata.get("tags", [])} <= {notebooks.VARIES}


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_what_is_stored_is_small_and_tells_of_no_machine(source: Path) -> None:
    notebook = stored(source)
    assert source.with_suffix(".ipynb").stat().st_size <= LARGEST
    for cell in code_cells(notebook):
        for output in cell.outputs:
            texts = [output.get("text", ""), *(v for k, v in output.get("data", {}).items() if "text" in k)]
            assert not re.search(OF_A_MACHINE, "\n".join(texts)), texts
    known = {"jupytext", *notebooks.LANGUAGE}
    assert set(notebook.metadata) <= known
    assert "version" not in notebook.metadata["language_info"]


def said(text: str) -> Any:
    """A notebook of two cells that both say ``text``; that of the second varies."""
    result = nbformat.v4.new_output("execute_result", {"text/plain": text}, execution_count=1)
    return nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell("1 + 1", outputs=[result], metadata={"tags": tags})
            for tags in ([], [notebooks.VARIES])
        ]
    )


def test_a_difference_is_found_and_told() -> None:
    assert differences(said("2"), said("2")) == []
    (told,) = differences(said("2"), said("3"))
    assert "cell [1], '1 + 1': stored is [('text/plain', '2')], it now gives [('text/plain', '3')]" in told
    silent = said("2")
    silent.cells[1].outputs = []
    (told,) = differences(said("2"), silent)
    assert told.startswith("cell [2]")


@pytest.mark.parametrize(
    "source",
    [SOURCES[0], *(pytest.param(each, marks=pytest.mark.slow) for each in SOURCES[1:])],
    ids=lambda path: path.stem,
)
@pytest.mark.timeout(1800)
def test_the_stored_outputs_are_current(source: Path, tmp_path: Path) -> None:
    found = differences(stored(source), notebooks.executed(source, tmp_path))
    assert not found, "\n".join([*found, REMEDY])
