"""The pages of the house are true: links lead somewhere, walks name what is there, examples run."""

from __future__ import annotations

import copy
import os
import re
import shlex
import subprocess
import sys
import tomllib
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from PIL import Image

from circa_train import user_code
from circa_train.config.entry import quote_paths
from circa_train.config.registration import config_folder, register
from circa_train.cost import circuits
from circa_train.data import own
from circa_train.fault import test as contract
from circa_train.nn.models import own as own_models

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
EXTENDING = (ROOT / "docs" / "extending.md").read_text()
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()

#: Where a page says what a word means, it names the module that computes it.
DEFINED_IN = (
    "fault/test.py", "fault/circa.py", "fault/uniform.py", "fault/bit_window.py", "fault/exact.py",
    "fault/law.py", "fault/masks.py", "philox.py", "field.py", "fixed_point.py", "rescaling.py",
    "nn/activation.py",
)  # fmt: skip


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a page in one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(text: str) -> list[list[str]]:
    """The lines of a page's shell blocks that start one of our scripts, as arguments."""
    lines = re.sub(r"\\\n\s*", "", "".join(blocks(text, "sh"))).splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith("scripts/")]


def anchor(heading: str) -> str:
    """The name under which a heading can be linked to."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_no_result_names_a_path_of_the_machine_that_it_was_made_on() -> None:
    """Neither a table or record nor a picture, which says the command that drew it."""
    files = [path for path in (ROOT / "results").rglob("*") if path.is_file()]
    assert len(files) > 50
    foreign = re.compile(rb"/(?:tmp|home|root|work|dev/shm)/")
    found = {path.relative_to(ROOT): match[0] for path in files
             if (match := foreign.search(read_with_text(path)))}
    assert not found


def read_with_text(path: Path) -> bytes:
    """A file's bytes; of a picture what is written in it."""
    if path.suffix != ".png":
        return path.read_bytes()
    with Image.open(path) as picture:
        return repr(picture.info).encode()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("https://"):
            continue
        path, _, part = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        assert place.exists(), f"{page.name}: {target}"
        headings = re.findall(r"^#+ (.*)", place.read_text(), re.MULTILINE) if part else []
        assert not part or part in map(anchor, headings), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_row_of_a_table_has_as_many_cells_as_its_head(page: Path) -> None:
    """A bar within a cell has to be escaped; outside of code, the rest of the row is cut off otherwise."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        rows = [re.sub(r"`[^`]*`|\\\|", "", row) for row in table.splitlines()]
        for row in rows:
            assert row.count("|") == rows[0].count("|"), f"{page.name}: {row}"


def test_the_roles_of_docstrings_become_names_on_the_site() -> None:
    namespace: dict[str, Any] = {"__file__": str(ROOT / "docs" / "_site" / "hooks.py")}
    exec((ROOT / "docs" / "_site" / "hooks.py").read_text(), namespace)
    html = ":data:<code>FAULT_KINDS</code>, :py:meth:<code>~fault.SignTest.counts</code>: <code>x</code>"
    shown = "<code>FAULT_KINDS</code>, <code>counts</code>: <code>x</code>"
    assert namespace["on_page_content"](html, None, None, None) == shown


def test_the_definitions_name_their_modules() -> None:
    text = (ROOT / "docs" / "semantics.md").read_text()
    for module in DEFINED_IN:
        assert f"(../circa_train/{module})" in text, module


#: Pages whose Python blocks stand for themselves. Those of extending.md build on each other, and have a test.
GUIDES = [page for page in PAGES if page.parent.name == "docs" and page.name != "extending.md"]


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(block, id=f"{page.name}-{number}")
        for page in GUIDES
        for number, block in enumerate(blocks(page.read_text(), "python"), start=1)
    ],
)
def test_the_examples_of_the_guides_run(
    block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "a page", "exec", dont_inherit=True), {"__name__": "a page"})


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_the_commands_of_the_guides_compose(page: Path) -> None:
    """The values of a sweep are looked at one by one in tests/test_config.py; here each list's first."""
    for script, *arguments in commands(page.read_text()):
        assert (ROOT / script).is_file(), script
        given = [a for a in arguments if a != "-m"]
        single = [re.sub(r"^([\w.+@/]+=[^,\[\]]+),.*", r"\1", a) for a in given]
        register(single)
        with initialize_config_dir(config_folder(), version_base="1.3"):
            compose(Path(script).stem, quote_paths(single))


def test_the_messages_that_are_explained_are_messages() -> None:
    sources = "".join(path.read_text() for path in sorted((ROOT / "circa_train").rglob("*.py")))
    said = re.sub(r'"\s*\n\s*f?"', "", sources)  # a message that is written in several pieces
    headings = re.findall(r"^### `(.+?)`", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE)
    assert len(headings) >= 10
    for heading in headings:
        assert heading in said, heading


def test_the_jobs_of_the_usage_page_run_without_hydra(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = blocks((ROOT / "docs" / "usage.md").read_text(), "python")
    exec(compile(block, "usage.md", "exec", dont_inherit=True), {})
    assert "5 draws" in capsys.readouterr().out


def test_the_floors_are_those_of_the_layering_test() -> None:
    namespace: dict[str, object] = {"__file__": str(ROOT / "tests" / "test_layering.py")}
    source = (ROOT / "tests" / "test_layering.py").read_text()
    exec(source[source.index("ORDER = (") : source.index("\n)", source.index("ORDER = (")) + 2], namespace)
    table = ARCHITECTURE[ARCHITECTURE.index("| floor |") : ARCHITECTURE.index("`scripts/` and")]
    rows = [line.split("|")[2] for line in table.splitlines()[2:] if line.startswith("|")]
    assert tuple(re.findall(r"`(\w+)`", " ".join(rows))) == namespace["ORDER"]


def walks() -> dict[str, list[str]]:
    """The numbered steps of each walk, by its heading."""
    part = ARCHITECTURE[ARCHITECTURE.index("## Walks") : ARCHITECTURE.index("## The tree")]
    sections = part.split("\n### ")[1:]
    return {
        section.partition("\n")[0]: re.findall(r"^\d+\. ((?:.|\n(?= ))*)", section, re.MULTILINE)
        for section in sections
    }


def test_there_are_three_walks_and_a_k_passes_at_most_ten_files() -> None:
    found = walks()
    assert len(found) == 3
    assert len(found["A k, from YAML to the kernel"]) <= 10


@pytest.mark.parametrize("walk", walks(), ids=lambda name: name.split(",")[0])
def test_a_walk_names_files_and_names_that_exist(walk: str) -> None:
    for step in walks()[walk]:
        link = re.match(r"\[`([\w/.]+)`\]\(\.\./([\w/.]+)\): ", step)
        assert link, step
        assert link[1] == link[2]
        text = (ROOT / link[2]).read_text()
        for name in re.findall(r"(?<!\[)`(\w+)`", step):
            assert re.search(rf"\b{name}\b", text), f"{link[2]} has no {name}"


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's folder with the files of extending.md; what they register is forgotten afterwards."""
    tables = (contract._REGISTRY, own_models.OWN.registered, own.OWN.registered, circuits._CIRCUITS)
    before = [dict(table) for table in tables]  # type: ignore[arg-type]
    named, modules, path = set(user_code._NAMED), set(sys.modules), list(sys.path)
    store = copy.deepcopy(ConfigStore.instance().repo)
    (tmp_path / "my").mkdir()
    for block in blocks(EXTENDING, "python"):
        if match := re.match(r"# (my/\w+\.py)\n", block):
            file = tmp_path / match[1]
            file.write_text((file.read_text() if file.exists() else "") + block)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for table, kept in zip(tables, before, strict=True):
        table.clear()
        table.update(kept)  # type: ignore[arg-type]
    user_code._NAMED.clear()
    user_code._NAMED.update(named)
    for name in set(sys.modules) - modules:
        if name.startswith(("user_code_", "my")):
            del sys.modules[name]
    sys.path[:] = path
    ConfigStore.instance().repo = store


def test_the_examples_of_ones_own_run_in_order(own_folder: Path) -> None:
    page = types.ModuleType("my_page")
    sys.modules["my_page"] = page  # where dataclasses and pickle look for what a module defines
    for number, block in enumerate(blocks(EXTENDING, "python"), start=1):
        exec(compile(block, f"extending.md, block {number}", "exec", dont_inherit=True), vars(page))


def test_the_commands_of_ones_own_compose(own_folder: Path) -> None:
    found = commands(EXTENDING)
    assert len(found) >= 8
    for script, *arguments in found:
        assert (ROOT / script).is_file(), script
        register(arguments)
        single = [re.sub(r"(=\d+),.*", r"\1", each) for each in arguments if each != "-m"]
        with initialize_config_dir(config_folder(), version_base="1.3"):
            compose(Path(script).stem, quote_paths(single))


def test_the_entry_points_are_in_the_groups_that_are_read(own_folder: Path) -> None:
    (text,) = blocks(EXTENDING, "toml")
    groups = tomllib.loads(text)["project"]["entry-points"]
    assert set(groups) == {"circa_train.models", "circa_train.datasets", "circa_train.sign_tests"}
    for points in groups.values():
        for place in points.values():
            module, _, name = place.partition(":")
            assert callable(user_code.load(f"{module.replace('.', '/')}.py:{name}"))


@pytest.mark.slow
@pytest.mark.timeout(1800)  # eleven programs, each of which imports torch
def test_the_commands_of_ones_own_run_as_a_user_would_run_them(own_folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for script, *arguments in commands(EXTENDING):
        extra = ["run.device=cpu", "run.progress=false"]
        ended = subprocess.run(
            [sys.executable, str(ROOT / script), *arguments, *extra],
            cwd=own_folder, env=environment, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert ended.returncode == 0, f"{script} {' '.join(arguments)}\n{ended.stdout}\n{ended.stderr}"


def test_the_citation_is_yaml_and_names_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["authors"] == [{"name": "The circa_train authors"}]
    (paper,) = citation["references"]
    assert paper["title"] == "Circa: Stochastic ReLUs for Private Deep Learning"
    assert [author["family-names"] for author in paper["authors"]] == ["Ghodsi", "Jha", "Reagen", "Garg"]
    assert any(identifier["value"] == "arXiv:2106.08475" for identifier in paper["identifiers"])


def test_the_changelog_begins_with_this_version() -> None:
    versions = re.findall(r"^## (\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    released = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert released in versions[:2]


def test_every_word_of_the_glossary_stands_there_once_and_in_order() -> None:
    words = re.findall(r"^\*\*(.+?)\*\*", (ROOT / "docs" / "glossary.md").read_text(), re.MULTILINE)
    assert len(words) >= 40
    assert words == sorted(set(words), key=str.casefold)


def test_the_readme_is_one_page() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= 9000


def test_the_tree_fits_the_line() -> None:
    tree = ARCHITECTURE[ARCHITECTURE.index("## The tree") :]
    assert max(map(len, tree.splitlines())) <= 110
