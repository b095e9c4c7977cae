"""What the README and docs/architecture.md promise: the tree, the Python example, the commands, the files."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
LISTED = ("circa_train", "scripts", "hydra_plugins", "adapters")


def tree_block() -> str:
    match = re.search(r"## The tree\n\n```\n(.*?)```", ARCHITECTURE, re.DOTALL)
    assert match, "docs/architecture.md has no tree"
    return match.group(1)


def files_of_the_tree() -> list[str]:
    """The files that the indented tree names, as paths."""
    found, folders = [], []
    for line in tree_block().splitlines():
        depth, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        folders[depth:] = [name.rstrip("/")]
        if name.endswith(".py"):
            found.append("/".join(folders))
    return found


def test_the_tree_is_the_tree() -> None:
    real = {
        str(path.relative_to(ROOT))
        for folder in LISTED
        for path in (ROOT / folder).rglob("*.py")
        if path.name != "__init__.py"
    }
    listed = files_of_the_tree()
    assert len(listed) == len(set(listed))
    assert set(listed) == real
    assert all(len(line.split(None, 1)) == 2 for line in tree_block().splitlines()), (
        "every line says what the file is"
    )


def test_the_python_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert code
    exec(compile(code.group(1), "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "303104" in printed
    assert "98 of 251 masks" in printed


def test_the_commands_exist() -> None:
    for script in set(re.findall(r"scripts/(\w+)\.py", README)):
        assert (ROOT / "scripts" / f"{script}.py").exists(), script
    targets = subprocess.run(
        ["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    ).stdout
    for target in set(re.findall(r"^make ([\w-]+)", README, re.MULTILINE)):
        assert f"make {target}" in targets


def test_its_files_exist() -> None:
    for target in re.findall(r"\]\(([\w/.-]+)\)", README):
        assert (ROOT / target).exists(), target
