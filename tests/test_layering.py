"""The map of the imports: one way, no circle, the garbled circuits free of torch, Hydra at the top only."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "circa_train"

#: Each part may import the parts before it, and itself.
ORDER = (
    "field", "fixed_point", "fault", "gc", "kernels", "nn", "data", "pickled", "untrusted", "contents",
    "weights", "checkpoint", "runs", "training",
    "evaluation",
    "diagnosis", "cost", "verify", "export", "search", "plots", "benchmark", "config",
)  # fmt: skip

#: Independence is what makes agreement evidence: these import less than their place allows.
ONLY = {
    "runs": set(),
    "fixed_point": {"field"},
    "fault": {"field"},
    "gc": {"field"},
    "kernels": {"field", "fixed_point", "fault"},
    "nn": {"field", "fixed_point", "fault", "kernels"},
    "data": set(),
    "pickled": set(),
    "untrusted": {"pickled"},
    "cost": {"field", "fault", "gc"},
}

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def imports(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (names & MODULES.keys()) | (set() if names <= MODULES.keys() else {node.module or ""})
    return found


IMPORTS = {name: imports(path) for name, path in MODULES.items()}


def part(module: str) -> str:
    return module.split(".")[1]


def test_every_part_has_its_place() -> None:
    assert {part(name) for name in MODULES if name != "circa_train"} == set(ORDER)


@pytest.mark.parametrize("module", [name for name in MODULES if name != "circa_train"])
def test_imports_run_one_way(module: str) -> None:
    own = part(module)
    allowed = ONLY.get(own, set(ORDER[: ORDER.index(own)])) | {own}
    used = {part(name) for name in IMPORTS[module] if name.startswith("circa_train.") and part(name) in ORDER}
    assert used <= allowed, f"{module} imports {sorted(used - allowed)}"


def test_no_circle() -> None:
    graph = {
        name: {other for other in IMPORTS[name] & set(MODULES) if other not in (name, "circa_train")}
        for name in MODULES
        if name != "circa_train"
    }
    for name, others in graph.items():  # a package's face gathers its modules, which do not look back at it
        assert not any(name.startswith(f"{other}.") for other in others), f"{name} imports its own package"
    graphlib.TopologicalSorter(graph).prepare()


def test_hydra_stays_at_the_top() -> None:
    for name, used in IMPORTS.items():
        roots = {module.split(".")[0] for module in used}
        if part(name + ".") != "config":
            assert not roots & {"hydra", "omegaconf"}, name
        tree = ast.parse(MODULES[name].read_text())
        used_names = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert "hydra.main" not in used_names, name


def test_the_garbled_circuits_need_no_torch() -> None:
    code = "import sys, circa_train.gc, circa_train.field; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=120).returncode == 0
    for name, used in IMPORTS.items():
        if part(name + ".") == "gc":
            assert not {module.split(".")[0] for module in used} & {"torch", "scipy", "tqdm"}, name


def test_public_names_load() -> None:
    import circa_train

    for name in circa_train.__all__:
        assert getattr(circa_train, name).__name__ == name
    assert set(circa_train.__all__) == set(circa_train._HOME)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        circa_train.nothing  # noqa: B018
