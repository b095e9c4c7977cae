"""What the wheel holds: every package, every YAML file, a console command for every script."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_is_in_the_wheel() -> None:
    tool = PROJECT["tool"]["setuptools"]
    found = {
        ".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "circa_train").rglob("__init__.py")
    }
    assert found <= set(tool["packages"]), sorted(found - set(tool["packages"]))
    for package in tool["packages"]:
        root = tool["package-dir"].get(package) or package.replace(".", "/")
        assert (ROOT / root / "__init__.py").is_file(), package


def test_every_script_with_a_command_exists_and_the_other_way_round() -> None:
    commands = {target.split(":")[0].rsplit(".", 1)[1] for target in PROJECT["project"]["scripts"].values()}
    scripts = {path.stem for path in (ROOT / "scripts").glob("*.py") if "@hydra.main" in path.read_text()}
    assert scripts <= commands
    for name in scripts:
        assert f"circa-{name}" in PROJECT["project"]["scripts"]


def test_every_yaml_file_is_below_the_packaged_folder() -> None:
    assert PROJECT["tool"]["setuptools"]["package-data"]["circa_train_configs"] == ["**/*.yaml"]
    assert (ROOT / "configs" / "__init__.py").is_file()


def required() -> dict[str, str]:
    """What the package needs, and the lowest version of it."""
    return dict(re.match(r"([\w-]+)>=([\d.]+)", line).groups() for line in PROJECT["project"]["dependencies"])  # type: ignore[union-attr]


def test_the_conda_environment_asks_for_what_the_package_needs() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    needed = required() | {"pytorch": required()["torch"]}
    pinned = [line for line in environment["dependencies"] if isinstance(line, str) and ">=" in line]
    assert len(pinned) >= 5
    for line in pinned:
        name, version = line.split(">=")
        assert needed[name] == version, line
    assert environment["dependencies"][-1] == {"pip": ["-e ."]}
    assert environment["name"] == PROJECT["project"]["name"]


def test_the_metadata_says_what_an_index_shows() -> None:
    project = PROJECT["project"]
    assert project["authors"]
    assert project["keywords"]
    pythons = [line.rsplit(" ", 1)[1] for line in project["classifiers"] if ":: 3." in line]
    assert pythons[0] == project["requires-python"].removeprefix(">=")
    assert (ROOT / "circa_train" / "py.typed").is_file()
    assert PROJECT["tool"]["setuptools"]["package-data"]["circa_train"] == ["py.typed"]


def test_the_docker_file_installs_by_a_target_that_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = re.findall(r"\bmake ([a-z]+)\b", (ROOT / "Dockerfile").read_text())
    assert set(named) - {"help"} <= targets
    assert "install" in named


def test_the_hooks_are_the_tools_of_make_check() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    check = (ROOT / "Makefile").read_text().split("\ncheck:")[1].split("\n\n")[0]
    for hook in hooks:
        assert f"$(BIN)/{hook['id']}" in check
