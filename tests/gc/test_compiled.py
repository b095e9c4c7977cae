"""The compiled passes are kept on the disk, and only for the files that they were compiled from."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from circa_train.gc.aes import compiled, passes, tape

FOLDER = Path(compiled.__file__).parent
HERE = "circa_train.gc.aes."


def test_kept_code_belongs_to_every_source_that_is_compiled_into_it() -> None:
    def imported(path: Path) -> set[str]:
        froms = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        return {str(node.module) for node in froms if str(node.module).startswith("circa_train.")}

    needed = {name for module in (passes, tape) for name in imported(Path(module.__file__))}
    needed |= imported(FOLDER / "lanes.py") | {passes.__name__, tape.__name__}
    assert {module.__name__ for module in compiled.SOURCES} == needed


@pytest.mark.parametrize("name", compiled._SIGNATURES)
def test_another_source_is_another_key(name: str) -> None:
    def cells(sources: str) -> set[object]:
        function = getattr(tape, name, None) or getattr(passes, name)
        return {cell.cell_contents for cell in function(1, sources).__closure__ or ()}

    assert "one" in cells("one")
    assert cells("one") != cells("two")


def test_a_second_process_finds_what_the_first_compiled(tmp_path: Path) -> None:
    program = (
        "from circa_train.code_cache import from_cache\n"
        "from circa_train.gc.aes.compiled import compiled_pass\n"
        "print(from_cache(compiled_pass('activate', 1)))"
    )
    answers = [
        subprocess.run(
            [sys.executable, "-c", program], env={"NUMBA_CACHE_DIR": str(tmp_path)}, capture_output=True,
            text=True, check=True,
        ).stdout.strip()
        for _ in range(2)
    ]  # fmt: skip
    assert answers == ["False", "True"]
