"""What the README and docs/architecture.md promise: the tree, the Python example, the commands, the files."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

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


def day_to_day() -> list[list[str]]:
    """The commands of the README's day-to-day block, as lists of arguments."""
    block = re.search(r"## Day to day\n\n```sh\n(.*?)```", README, re.DOTALL)
    assert block
    return [shlex.split(line, comments=True) for line in block.group(1).splitlines()]


#: What makes the commands small enough for a test: a tiny network on made-up images, two values of k.
SMALLER = {
    "model=resnet32": ["model=resnet8", "model.width=0.25"],
    "data=cifar10": ["data.name=synthetic:classes=3,size=8,channels=1,images=120", "batch_size=32"],
    "epochs=200": ["epochs=1", "tracker=wandb_offline"],
    "budget=0.01": ["budget=0.9", "margin=0"],  # of twelve validation images
    "+sweep=truncation": ["+sweep=truncation", "fault.k=0,12"],
}


@pytest.mark.slow
@pytest.mark.timeout(3600)  # seven commands of at most 500 s, and the first of a numba compiles
def test_the_day_to_day_block_runs(tmp_path: Path) -> None:
    """Every line, in its order, each on what the first has trained, and then the figures.

    CIRCA_TRAIN_PYTHON is the interpreter that runs them: `make lowest` takes one that has the oldest packages
    which pyproject.toml allows.
    """
    python = os.environ.get("CIRCA_TRAIN_PYTHON", sys.executable)
    commands = day_to_day()
    assert [Path(command[0]).stem for command in commands] == [
        "train", "evaluate", "evaluate", "search", "verify", "export",
    ]  # fmt: skip
    trained = "runs/train/RUN/best.pt"
    for script, *given in [*commands, ["scripts/plot.py", "runs=runs"]]:
        arguments = [small for each in given for small in SMALLER.get(each, [each])]
        if "train" not in script:
            (found,) = tmp_path.glob("runs/train/*/best.pt")
            arguments = [a.replace(trained, str(found.relative_to(tmp_path))) for a in arguments]
        done = subprocess.run(
            [python, str(ROOT / script), *arguments], cwd=tmp_path, text=True, timeout=500,
            capture_output=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert done.returncode == 0, f"{script} {arguments}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    kinds = {path.parts[-3] for path in tmp_path.glob("runs/*/*/result.json")}
    assert kinds == {"train", "evaluate", "search", "verify", "export"}
    assert len(list(tmp_path.glob("runs/sweeps/truncation/*/result.json"))) == 4
    assert list(tmp_path.glob("runs/train/*/wandb/offline-run-*"))
    assert (tmp_path / "runs" / "plots" / "accuracy_vs_k.png").stat().st_size > 0


def test_every_dependency_has_a_lower_bound_that_this_environment_keeps() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for each in map(Requirement, project["dependencies"]):
        bounds = [bound for bound in each.specifier if bound.operator == ">="]
        assert len(bounds) == 1, each
        assert each.specifier.contains(version(each.name), prereleases=True), each


def test_every_extra_that_is_named_exists() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    texts = [
        path
        for kind in ("*.md", "*.py", "*.yaml", "*.toml", "Makefile")
        for folder in ("circa_train", "configs", "docs", "scripts", "notebooks")
        for path in (ROOT / folder).rglob(kind)
    ]
    texts += [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "Makefile", "pyproject.toml")]
    named: dict[str, Path] = {}
    for path in texts:
        for group in re.findall(r"circa[_-]train\[([\w, -]+)\]", path.read_text()):
            named |= {each.strip(): path for each in group.split(",")}
    assert named
    for name, path in named.items():
        assert name in extras, f"{path} names the extra {name}"


def test_its_files_exist() -> None:
    for target in re.findall(r"\]\(([\w/.-]+)\)", README):
        assert (ROOT / target).exists(), target
