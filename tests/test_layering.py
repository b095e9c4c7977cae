"""The map of the imports: one way, no circle, the garbled circuits free of torch, Hydra at the top only."""

from __future__ import annotations

import ast
import graphlib
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "circa_train"

#: Each part may import the parts before it, and itself.
ORDER = (
    "lazy", "bars", "tricks", "user_code", "field", "files", "code_cache", "text", "philox", "fixed_point",
    "rescaling",
    "fault", "gc", "kernels",
    "nn", "data", "checkpoint", "runs", "tracking", "training", "evaluation", "diagnosis", "cost", "verify",
    "export", "search", "plots", "report", "pi", "benchmark", "testing", "jobs", "config",
)  # fmt: skip

#: Independence is what makes agreement evidence: these import less than their place allows.
ONLY: dict[str, set[str]] = {
    "fixed_point": {"field"},
    "rescaling": {"field"},
    "fault": {"field", "lazy", "philox", "user_code"},
    "gc": {"code_cache", "field", "lazy", "tricks"},
    "kernels": {"code_cache", "field", "files", "fixed_point", "fault", "lazy", "philox", "tricks"},
    "nn": {"field", "files", "fixed_point", "lazy", "rescaling", "fault", "kernels", "tricks", "user_code"},
    "data": {"bars", "files", "lazy", "philox", "user_code"},
    "cost": {"field", "fault", "gc", "text"},
    "pi": {"export", "field", "files", "gc", "lazy", "rescaling"},
}

#: What Hydra's room may look at: jobs, records and folders, and the faces of what it makes schemas of.
ONLY["config"] = {"fault", "files", "jobs", "runs", "user_code", "hydra_plugins"}

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for folder in (PACKAGE, ROOT / "scripts", ROOT / "hydra_plugins")
    for path in sorted(folder.rglob("*.py"))
}

#: Above all floors: the scripts, and what Hydra demands to be in a namespace of its own.
ABOVE = ("scripts", "hydra_plugins")


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
    package, _, rest = module.partition(".")
    return package if package in ABOVE else rest.partition(".")[0]


def test_every_part_has_its_place() -> None:
    assert {part(name) for name in MODULES if name != "circa_train"} == {*ORDER, *ABOVE}


@pytest.mark.parametrize("module", [name for name in MODULES if name != "circa_train"])
def test_imports_run_one_way(module: str) -> None:
    own = part(module)
    below = {"config"} if own in ABOVE else set(ORDER[: ORDER.index(own)])
    allowed = ONLY.get(own, below) | {own}
    used = {part(name) for name in IMPORTS[module] if name.partition(".")[0] in ("circa_train", *ABOVE)} - {
        ""
    }
    assert used <= allowed, f"{module} imports {sorted(used - allowed)}"


#: Packages whose face has all that others need, with the modules that are doors of their own.
FACES = {
    "circa_train.kernels": {"eager", "transformed"},
    "circa_train.gc": {"aes", "circuits", "protocol"},
}


@pytest.mark.parametrize("package", FACES)
def test_others_import_from_the_face(package: str) -> None:
    doors = {package} | {f"{package}.{name}" for name in FACES[package]}
    for name, used in IMPORTS.items():
        inside = {module for module in used if module.startswith(f"{package}.")}
        assert part(name) == part(package) or inside <= doors, f"{name} imports {sorted(inside - doors)}"


@pytest.mark.parametrize("package", ["kernels", "gc", "gc.aes", "gc.circuits", "gc.protocol", "fault"])
def test_a_face_has_every_name_that_it_lists(package: str) -> None:
    face = importlib.import_module(f"circa_train.{package}")
    assert all(hasattr(face, name) for name in face.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        face.nothing  # noqa: B018


def test_no_circle() -> None:
    """Scripts and plug-ins included, and imports inside functions count as any other."""
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
        if part(name) not in ("config", *ABOVE):
            assert not roots & {"hydra", "omegaconf"}, name
        tree = ast.parse(MODULES[name].read_text())
        used_names = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert ("hydra.main" in used_names) == (name == "circa_train.config.entry"), name


def test_the_garbled_circuits_and_the_kernels_face_need_no_torch() -> None:
    modules = "gc gc.accounting gc.protocol.local gc.protocol.session gc.aes.engines field kernels"
    modules += " pi.homomorphic"
    code = "".join(f"import circa_train.{name}\n" for name in modules.split())
    code += "import sys; sys.exit(bool({'torch', 'numba', 'triton'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=120).returncode == 0
    for name, used in IMPORTS.items():
        if part(name) == "gc":
            assert not {module.split(".")[0] for module in used} & {"torch", "scipy", "tqdm"}, name


def test_public_names_load() -> None:
    import circa_train

    for name in circa_train.__all__:
        assert getattr(circa_train, name).__name__ == name
    assert set(circa_train.__all__) == set(circa_train._HOMES)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        circa_train.nothing  # noqa: B018
