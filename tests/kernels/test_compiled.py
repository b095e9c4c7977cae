"""What is kept of compiled code, and masks that it draws again."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch

from circa_train.fault import TruncatedSign
from circa_train.kernels import reference
from circa_train.kernels.cpu import compiled
from circa_train.kernels.cpu import launch as cpu
from circa_train.kernels.settings import SiteSettings

FOLDER = Path(compiled.__file__).parent
HERE = "circa_train.kernels.cpu."


def test_kept_code_belongs_to_every_source_that_is_compiled_into_it() -> None:
    def imported(path: Path) -> set[str]:
        tree = ast.parse(path.read_text())
        froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        names = {node.module for node in froms} | {
            f"{node.module}.{alias.name}" for node in froms for alias in node.names
        }
        return {name.rpartition(".")[2] for name in names if name and name.startswith(HERE)}

    needed, todo = set(), [FOLDER / "compiled.py"]
    while todo:
        new = {name for name in imported(todo.pop()) if (FOLDER / f"{name}.py").exists()} - needed
        needed |= new
        todo += [FOLDER / f"{name}.py" for name in new]
    definitions = {"circa_train.philox", "circa_train.fault.masks"}
    assert {module.__name__ for module in compiled.SOURCES} == {HERE + name for name in needed} | definitions


def test_another_source_is_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    def cells(sources: str) -> set[object]:
        function = compiled._forward_entry(4, sources)
        return {cell.cell_contents for cell in function.__closure__ or ()}

    assert "one" in cells("one")
    assert cells("one") != cells("two")


@pytest.mark.parametrize("prime", [2**30 + 3, 2**31 - 1, 2138816513, 3])
def test_masks_of_many_batches_are_drawn_again_as_often_as_needed(prime: int) -> None:
    settings = SiteSettings(TruncatedSign(0, "negpass", prime), 4, 9, 1, "wrap")
    z, address = torch.randn(3, 9001), torch.tensor([2, 1])
    y, _ = cpu.forward(z, settings, address, False)
    assert torch.equal(y, reference.forward(z, settings, address, False)[0])
