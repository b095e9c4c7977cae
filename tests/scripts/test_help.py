"""What --help says: the groups of this script, values that it takes, lines that fit on a screen."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from circa_train.config import help
from circa_train.config.entry import _help
from circa_train.config.registration import config_folder, register
from circa_train.cost import ACCOUNTINGS, why_no_circuit
from circa_train.fault import sign_test_from_dict
from circa_train.fault.circa import MODES
from circa_train.fault.uniform import DIRECTIONS
from circa_train.fixed_point import OVERFLOW_POLICIES
from circa_train.jobs.allowed import FORMS, REFUSED, WORDS
from circa_train.jobs.job import KINDS
from circa_train.jobs.reduction import UNITS
from circa_train.rescaling import RESCALINGS
from circa_train.runs.wandb_mirror import WANDB_MODES
from circa_train.training.reduction_settings import GRANULARITIES
from circa_train.training.settings import CURRICULA, OPTIMIZERS, PRECISIONS, SCHEDULES
from circa_train.verify.checking import TRANSPORTS

CONFIGS = Path(config_folder())
SCRIPTS = (*KINDS, "cost", "plot")
WIDTH = 110


@pytest.fixture(autouse=True)
def hydra() -> Iterator[None]:
    register()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        yield


def shown(script: str) -> Any:
    return compose(script, [], return_hydra_config=True)


def listed(text: str) -> dict[str, list[str]]:
    """``{name: [option, ...]}`` of lines ``name: option, option``, which may go on in the next line."""
    joined = re.sub(r",\n +(?! *\+?[\w.]+: )", ", ", text)
    pairs = (line.strip().partition(":") for line in joined.splitlines())
    return {name: [each.strip() for each in rest.split(",")] for name, _, rest in pairs}


@pytest.mark.parametrize("script", SCRIPTS)
def test_groups_are_those_of_the_script(script: str) -> None:
    config = shown(script)
    groups = listed(help.groups(config, CONFIGS))
    chosen = {name for name in config.hydra.runtime.choices if not name.startswith("hydra/")}
    assert {name for name in groups if not name.startswith("+")} == chosen
    for group in chosen:
        there = {path.stem for path in (CONFIGS / group).glob("*.yaml")}
        refused = set(REFUSED.get(script, {}).get(group, ()))
        assert refused <= there
        assert there - refused <= set(groups[group])
        assert not refused & set(groups[group])
    assert (script == "benchmark") == ("benchmark" in groups)


def test_sweeps_and_experiments_are_listed_with_the_script_that_runs_them() -> None:
    sweeps = {script: listed(help.groups(shown(script), CONFIGS)).get("+sweep", []) for script in SCRIPTS}
    assert "truncation" in sweeps["evaluate"]
    assert "finetune" in sweeps["train"]
    assert not set(sweeps["train"]) & set(sweeps["evaluate"])
    assert not sweeps["benchmark"]
    everything = {path.stem for path in (CONFIGS / "sweep").glob("*.yaml")}
    assert set().union(*sweeps.values()) == everything


@pytest.mark.parametrize("script", ["verify", "export", "cost"])
def test_fault_models_without_a_circuit_are_not_offered_where_one_is_needed(script: str) -> None:
    ours = {"uniform": {"rate": 0.1}, "bit_window": {"low": 1, "high": 9}, "truncated_sign": {"k": 3}}
    for kind, fields in ours.items():
        has_none = why_no_circuit(sign_test_from_dict({"kind": kind, **fields})) is not None
        assert has_none == (kind in REFUSED[script]["fault"])


@pytest.mark.parametrize("script", SCRIPTS)
def test_values_are_of_keys_that_the_script_has(script: str) -> None:
    values = listed(help.values(shown(script)))
    assert set(values) <= {*WORDS, *FORMS}
    assert ("fault.k" in values) == (script in ("evaluate", "search", "cost", "equalize"))
    assert ("optim.schedule" in values) == (script == "train")
    assert ("verify.transport" in values) == (script == "verify")
    assert ("tracker.mode" in values) == (script != "cost")


def test_words_are_those_that_the_parts_take() -> None:
    assert {name: set(words) for name, words in WORDS.items() if name != "run.device"} == {
        "fault.mode": set(MODES),
        "fault.direction": set(DIRECTIONS),
        "fault.overflow": set(OVERFLOW_POLICIES),
        "optim.optimizer": set(OPTIMIZERS),
        "optim.schedule": set(SCHEDULES),
        "precision": set(PRECISIONS),
        "curriculum": set(CURRICULA),
        "reduction.granularity": set(GRANULARITIES),
        "reduction.unit": set(UNITS),
        "reduction.accounting": set(ACCOUNTINGS),
        "split": {"train", "validation", "test"},
        "rescaling": set(RESCALINGS),
        "decide_on": {"validation", "test"},
        "verify.transport": set(TRANSPORTS),
        "pi.offline": {"dealer", "homomorphic"},
        "tracker.mode": set(WANDB_MODES),
    }


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_text_fits_on_a_screen(script: str) -> None:
    config = shown(script)
    template = str(config.hydra.help.template)
    assert max(map(len, template.splitlines())) <= WIDTH
    assert "$APP_CONFIG_GROUPS" not in template


def test_no_line_of_the_configuration_files_is_longer() -> None:
    for path in CONFIGS.rglob("*.yaml"):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            assert len(line) <= WIDTH, f"{path}, line {number}"


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_page_is_the_template_and_the_values_without_hydras_own(script: str) -> None:
    page, config = help.page(shown(script)), shown(script)
    head, _, _ = str(config.hydra.help.template).partition("$CONFIG")
    assert page.startswith(head)
    assert all(f"\n{key}:" in page for key in config if key != "hydra")
    assert "\nhydra:" not in page


def test_the_page_of_the_search_says_both_questions() -> None:
    config = shown("search")
    text, values = help.page(config), listed(help.values(config))
    assert "checkpoint=runs/train/RUN/best.pt budget=0.01\n" in text
    assert "checkpoint=runs/train/RUN/best.pt gates=11\n" in text
    assert "\ngates: null\n" in text
    assert values["gates"][0] == "null"


def test_what_is_more_than_help_is_left_to_hydra() -> None:
    GlobalHydra.instance().clear()
    assert "k: 3" in str(_help("train", ["--help", "fault=poszero", "fault.k=3"]))
    for arguments in (["fault.k=3"], ["--help", "fault=nosuch"], ["--help", "--resolve"], ["-m", "--help"]):
        assert _help("train", arguments) is None, arguments
