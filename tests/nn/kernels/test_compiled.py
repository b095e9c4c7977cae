"""What is kept of compiled code, and of memory."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from circa_train.fault.spec import TruncatedSign
from circa_train.nn.kernels import compiled, cpu, memory, reference
from circa_train.nn.kernels.plan import SitePlan

FOLDER = Path(compiled.__file__).parent


def test_kept_code_belongs_to_every_source_that_is_compiled_into_it() -> None:
    def imported(path: Path) -> set[str]:
        tree = ast.parse(path.read_text())
        froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        names = {node.module for node in froms} | {f"{node.module}.{alias.name}" for node in froms for alias in node.names}
        return {name.rpartition(".")[2] for name in names if name and name.startswith("circa_train.nn.kernels.")}

    needed, todo = set(), [FOLDER / "compiled.py"]
    while todo:
        new = {name for name in imported(todo.pop()) if (FOLDER / f"{name}.py").exists()} - needed
        needed |= new
        todo += [FOLDER / f"{name}.py" for name in new]
    assert {module.__name__.rpartition(".")[2] for module in compiled.SOURCES} == needed | {"masks"}


def test_another_source_is_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    def cells(sources: str) -> set[object]:
        function = compiled._forward_entry(4, sources)
        return {cell.cell_contents for cell in function.__closure__ or ()}

    assert "one" in cells("one")
    assert cells("one") != cells("two")


@pytest.mark.parametrize("prime", [2**30 + 3, 2**31 - 1, 2138816513, 3])
def test_masks_of_many_batches_are_drawn_again_as_often_as_needed(prime: int) -> None:
    plan = SitePlan(TruncatedSign(0, "negpass", prime), 4, 9, 1, "wrap")
    z, address = torch.randn(3, 9001), torch.tensor([2, 1])
    y, _ = cpu.forward(z, plan, address, False)
    assert torch.equal(y, reference.forward(z, plan, address, False)[0])


KEEP = """
import resource, torch
from circa_train.nn.kernels import memory
kept = memory.keep()
def work():
    layers = [torch.ones(2_000_000) for _ in range(4)]
for _ in range(20):
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    work()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_kept_memory_is_used_again_unless_the_user_chose_otherwise() -> None:
    def run(**variables: str) -> tuple[str, int]:
        answer = subprocess.run(
            [sys.executable, "-c", KEEP], env=os.environ | variables, capture_output=True, text=True, timeout=120, check=True
        )
        kept, faults = answer.stdout.split()
        return kept, int(faults)

    kept, faults = run()
    refused, more = run(MALLOC_TRIM_THRESHOLD_="131072")
    assert (kept, refused) == ("True", "False")
    assert faults < more / 10, "80 tensors of 8 MB: new pages each time, or the same"


def test_large_results_are_ordinary_tensors() -> None:
    like = torch.empty(3, 1_000_000).t()
    assert memory.empty_like(like).stride() == torch.empty_like(like).stride()
    assert memory.empty_like(torch.empty(0)).shape == (0,)
