"""What the wheel holds: every package, every YAML file, a console command for every script."""

from __future__ import annotations

import tomllib
from pathlib import Path

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
