from __future__ import annotations

import dataclasses
import json
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, MissingConfigException
from hydra.types import RunMode
from omegaconf import OmegaConf

from circa_train.config.checks import check, composing
from circa_train.config.entry import quote_paths
from circa_train.config.errors import ending
from circa_train.config.naming import plain, run_folder
from circa_train.config.registration import config_folder, register
from circa_train.config.templates import TemplateLoader
from circa_train.fault import BitWindow, NoFault, TruncatedSign, UniformFault
from circa_train.gc.circuits.relu import ReluCircuit
from circa_train.jobs.build import build_device, check_model
from circa_train.jobs.describe import describe_cost
from circa_train.jobs.faults import build_fault, check_fault
from circa_train.jobs.inputs import input_digests
from circa_train.jobs.tracked import wandb_settings
from circa_train.jobs.train import build_settings
from circa_train.training import TrainingSettings

CONFIGS = Path(config_folder())


@pytest.fixture(autouse=True)
def hydra() -> Iterator[None]:
    register()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        yield


def composed(root: str, *overrides: str) -> Any:
    """The dataclasses that a script's work would get."""
    return OmegaConf.to_object(compose(root, list(overrides)))


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


@pytest.mark.parametrize("group", ["model", "data", "fault", "optim", "reduction", "tracker"])
def test_every_option_of_every_group_composes(group: str) -> None:
    fixed = {
        "data=imagefolder": ["data.name=imagefolder:x"],
        "fault=file": ["fault.path=x"],
        "fault=python": ["fault.path=x"],
        "reduction=snl": ["reduction.budget=1"],
    }
    for option in options(group):
        choice = f"{group}={option}"
        arguments = [a.replace("imagefolder:x", '"imagefolder:x"') for a in fixed.get(choice, [])]
        composed("train", choice, *arguments)


def test_every_experiment_composes_and_builds_its_settings() -> None:
    for experiment in options("experiment"):
        config = composed("train", f"+experiment={experiment}")
        build_settings(config)
        check_model(config.model)


def test_every_experiment_and_sweep_says_its_command_expectation_and_cost() -> None:
    for group in ("experiment", "sweep"):
        for option in options(group):
            text = (CONFIGS / group / f"{option}.yaml").read_text()
            assert f"{group}={option}" in text, option
            assert re.search(r"scripts/\w+\.py .*\n(#.*\n)*# Expect: (.*\n#)*.*Cost: ", text), option


def test_a_reduction_is_given_on_the_command_line() -> None:
    assert composed("train", "model.reduction={alternate: true}").model.reduction == {"alternate": True}
    assert composed("train", "model.reduction={stages: [layer1]}").model.reduction == {"stages": ["layer1"]}


def test_a_sweep_takes_a_single_value_of_what_it_sweeps() -> None:
    assert (
        composed("evaluate", "checkpoint=x", "+sweep=fault_rate", "fault.direction=both").fault.direction
        == "both"
    )
    assert (
        composed("evaluate", "checkpoint=x", "+sweep=truncation", "fault=negpass", "fault.k=3").fault.mode
        == "negpass"
    )
    assert composed("train", "+sweep=finetune", "fault.k=3").fault.k == 3


def test_every_sweep_parameter_is_a_key_of_its_script() -> None:
    for option in options("sweep"):
        text = (CONFIGS / "sweep" / f"{option}.yaml").read_text()
        root = re.search(r"scripts/(\w+)\.py -m", text)
        assert root is not None
        parameters = yaml.safe_load(text)["hydra"]["sweeper"]["params"]
        checkpoint = [] if root[1] == "train" else ["checkpoint=x"]
        composed(
            root[1],
            *checkpoint,
            *(f"{key}={str(values).split(',')[0]}" for key, values in parameters.items()),
        )


def test_training_settings_and_the_schema_agree_in_names_and_defaults() -> None:
    config = composed("train", "optim=sgd")
    assert build_settings(config) == TrainingSettings()
    names = {f.name for f in dataclasses.fields(TrainingSettings)}
    sections = {"model", "data", "fault", "optim", "reduction", "tracker", "run", "checkpoint", "teacher"}
    ours = {f.name for f in dataclasses.fields(config)} - sections
    ours |= {f.name for f in dataclasses.fields(config.optim)} | {
        f"augment_{f.name}" for f in dataclasses.fields(config.data.augment)
    }
    assert ours == names


@pytest.mark.parametrize(
    ("override", "names"),
    [
        ("fault.kk=3", "fault.kk"),
        ("fault.k=many", "fault.k"),
        ("fault.rate=0.1", "fault.rate"),
        ("optim.learning_rat=1", "optim.learning_rat"),
        ("epochs=1.5", "epochs"),
        ("nothing=1", "nothing"),
    ],
)
def test_a_mistyped_key_or_value_fails_at_composition_and_is_named(override: str, names: str) -> None:
    with pytest.raises(ConfigCompositionException) as caught:
        compose("train", ["fault=poszero", override])
    assert names in f"{caught.value} {caught.value.__cause__}"


@pytest.mark.parametrize("plus", ["", "+"])
def test_an_unknown_key_of_a_group_is_told_alike_with_and_without_a_plus(
    capsys: pytest.CaptureFixture[str], plus: str
) -> None:
    with pytest.raises(SystemExit), composing(), ending():
        check(compose("train", ["fault=poszero", f"{plus}fault.bits=12"], return_hydra_config=True))
    assert (
        "error: there is no key fault.bits (did you mean fault.frac_bits?); fault has frac_bits, "
        "headroom_bits, rescale_bits, seed, overflow, k, mode, prime; --help lists all there are"
    ) in capsys.readouterr().err


def test_an_unknown_option_lists_those_there_are() -> None:
    with pytest.raises(MissingConfigException, match="poszero"):
        compose("train", ["fault=posszero"])


@pytest.mark.parametrize(
    ("overrides", "spec"),
    [
        (["fault=none"], NoFault()),
        (["fault=poszero", "fault.k=7"], TruncatedSign(k=7)),
        (["fault=negpass", "fault.k=3", "fault.prime=251"], TruncatedSign(k=3, mode="negpass", prime=251)),
        (["fault=uniform", "fault.rate=1e-3", "fault.direction=passed"], UniformFault(1e-3, "passed")),
        (["fault=bit_window", "fault.low=4", "fault.high=21"], BitWindow(4, 21)),
    ],
)
def test_fault_sections_build_the_specs(overrides: list[str], spec: object) -> None:
    plan = build_fault(composed("train", *overrides).fault)
    assert plan.faults == spec
    assert plan.frac_bits is None
    assert build_fault(composed("train", *overrides, "fault.frac_bits=9").fault).frac_bits == 9


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["fault=poszero", "fault.k=31"], r"k = 31 is outside \[0, 30\]"),
        (["fault=poszero", "fault.k=-1"], "k = -1"),
        (["fault=poszero", "fault.prime=250"], "250"),
        (["fault=poszero", "fault.mode=both"], "'both'"),
        (["fault=uniform", "fault.rate=1.5"], "rate = 1.5"),
        (["fault=uniform", "fault.direction=up"], "'up'"),
        (["fault=bit_window", "fault.low=9", "fault.high=9"], "bit window"),
        (["fault.overflow=ignore"], "'ignore'"),
        (["fault.frac_bits=automatic"], "'automatic'"),
        (["fault.frac_bits=31"], "31"),
    ],
)
def test_values_out_of_range_are_refused_before_anything_is_loaded(
    overrides: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_fault(composed("train", *overrides).fault)


def test_unknown_models_options_devices_and_trackers_are_refused() -> None:
    with pytest.raises(ValueError, match="resnet9"):
        check_model(composed("train", "model.name=resnet9").model)
    with pytest.raises(ValueError, match="dropout"):
        check_model(composed("train", "model.dropout=0.5").model)
    with pytest.raises(ValueError, match="nonsense"):
        build_device("nonsense")
    with pytest.raises(ValueError, match="tensorboard"):
        wandb_settings(composed("train", "tracker.name=tensorboard").tracker)
    with pytest.raises(ValueError, match="epochs = 0"):
        build_settings(composed("train", "epochs=0"))


def test_a_fault_file_gives_one_spec_per_site(tmp_path: Path) -> None:
    path = tmp_path / "fault.json"
    path.write_text(
        json.dumps(
            {"sites": {"relu": {"kind": "truncated_sign", "k": 9}, "b": {"kind": "none"}}, "frac_bits": 11}
        )
    )
    section = composed("train", "fault=file", f'fault.path="{path}"').fault
    plan = build_fault(section)
    assert plan.faults == {"relu": TruncatedSign(k=9), "b": NoFault()}
    assert plan.frac_bits == 11
    for text, message in (
        ("{", "neither"),
        ("[1]", "no 'sites'"),
        ('{"sites": {"relu": {"kind": "x"}}}', "site relu"),
        (None, "no fault file"),
    ):
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_text(text)
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            build_fault(section)


def test_a_record_prices_the_sites_as_the_cost_package_does(tmp_path: Path) -> None:
    relus = {"relu": 100, "b": 100}
    path = tmp_path / "fault.json"
    k12, small = {"kind": "truncated_sign", "k": 12}, {"kind": "truncated_sign", "k": 4, "prime": 251}
    for faults, gates in (
        ([k12, k12], 100 * (19 + 19)),
        ([k12, {"kind": "none"}], 14_200),
        ([small, {"kind": "none"}], 100 * (4 + ReluCircuit("exact", 251).circuit.and_gates)),
        ([k12, {"kind": "uniform"}], None),
    ):
        path.write_text(json.dumps({"sites": dict(zip(relus, faults, strict=True))}))
        plan = build_fault(composed("train", "fault=file", f'fault.path="{path}"').fault)
        size = None if gates is None else 32 * gates
        assert describe_cost(relus, plan) == {"relus": 200, "and_gates": gates, "table_bytes": size}


def test_fault_checkpoint_takes_what_the_network_was_trained_with() -> None:
    section = composed("evaluate", "checkpoint=x", "fault=checkpoint").fault
    trained = {"kind": "truncated_sign", "k": 5, "mode": "negpass", "prime": 251}
    assert build_fault(section, {"fault": trained}).faults == TruncatedSign(k=5, mode="negpass", prime=251)
    sites = {"sites": {"relu": trained}}
    assert build_fault(section, {"fault": sites}).description == sites
    check_fault(section)
    with pytest.raises(ValueError, match="exact ReLUs"):
        build_fault(section, {"fault": None})


def test_paths_with_special_characters_are_quoted() -> None:
    given = [
        "checkpoint=runs/lr=0.1 (2)/best.pt",
        "checkpoint=plain.pt",
        "fault.k=1,2",
        'checkpoint="a=b"',
        "checkpoint=a,b",
        "-m",
    ]
    assert quote_paths(given) == ['checkpoint="runs/lr=0.1 (2)/best.pt"', *given[1:]]
    config = compose("evaluate", quote_paths(["checkpoint=runs/lr=0.1 (2)/be'st.pt"]))
    assert config.checkpoint == "runs/lr=0.1 (2)/be'st.pt"


def test_patterns_become_sweeps_and_lists(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "best.pt").touch()
    pattern = f"{tmp_path}/*/best.pt"
    assert quote_paths([f"checkpoint={pattern}"]) == [f"checkpoint={tmp_path}/a/best.pt,{tmp_path}/b/best.pt"]
    assert quote_paths([f"runs={tmp_path}/*"]) == [f"runs=[{tmp_path}/a,{tmp_path}/b]"]
    assert quote_paths([f"checkpoint={tmp_path}/none*"]) == [f'checkpoint="{tmp_path}/none*"']


def test_folders_have_a_readable_label_and_a_hash_of_the_question() -> None:
    first = run_folder(compose("evaluate", ["checkpoint=a.pt", "fault.k=9"]))
    assert re.fullmatch(r"poszero-k9-[0-9a-f]{10}", first)
    assert (
        run_folder(
            compose("evaluate", ["checkpoint=a.pt", "fault.k=9", "run.threads=1", "run.name=mine"])
        ).split("-")[-1]
        == first[-10:]
    )
    assert run_folder(compose("train", [])).startswith("resnet8-digits-none-")
    assert "/" not in run_folder(compose("train", ['model.name="torchvision:a/b"']))


def test_inputs_are_digested_only_where_they_exist(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_text("x")
    assert set(
        input_digests({"checkpoint": str(tmp_path / "a.pt"), "teacher": None, "fault": {"path": "nowhere"}})
    ) == {"checkpoint"}


def test_templates_compose_what_hydra_composes() -> None:
    loader: Any = GlobalHydra.instance().hydra.config_loader  # type: ignore[union-attr]
    master = loader.load_configuration("evaluate", ["checkpoint=a.pt"], RunMode.MULTIRUN)
    quick = TemplateLoader(loader)
    for overrides in (
        ["fault=negpass", "fault.k=3", "seed=1"][:2],
        ["fault=poszero", "fault.k=4", "checkpoint='b c.pt'", "draws.until_width=0.01"],
        ["fault=uniform", "fault.rate=1e-3", "data.mean=[0.5]", "+sweep=truncation"],
    ):
        ours, theirs = quick.load_sweep_config(master, overrides), loader.load_sweep_config(master, overrides)
        assert plain(ours) == plain(theirs)
        assert ours.hydra.overrides.task == theirs.hydra.overrides.task
        assert OmegaConf.get_type(ours, "fault") == OmegaConf.get_type(theirs, "fault")
    with pytest.raises(ConfigCompositionException, match=r"fault\.kk"):
        quick.load_sweep_config(master, ["fault.kk=3"])
    assert quick.load_sweep_config(master, ["fault.k=5"]).fault.k == 5, (
        "a template must not remember the job before"
    )
    assert quick.load_sweep_config(master, []).fault.k == 12


@pytest.mark.parametrize(
    ("arguments", "called"),
    [(["fault=poszero"], "truncated_sign"), (["fault=python", "fault.path=mine.py:Own"], "mine.py:Own")],
)
def test_a_mistyped_field_of_a_sign_test_is_told_in_plain_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], called: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\nfrom circa_train import TruncatedSign\n"
        "@dataclass(frozen=True)\nclass Own(TruncatedSign):\n    kind = 'mistyped_own'\n    k: int = 3\n"
    )
    register(arguments)
    with pytest.raises(ConfigCompositionException) as caught:
        compose("train", [*arguments, "fault.kk=3"])
    told = f"{caught.value} {caught.value.__cause__}"
    assert called in told
    assert "_OWN_" not in told
    assert "_KIND_" not in told
    section = composed("train", *arguments).fault
    assert pickle.loads(pickle.dumps(section)) == section


def test_a_data_set_with_options_is_no_sweep() -> None:
    (argument,) = quote_paths(["data.name=synthetic:classes=4,size=16"])
    assert compose("train", [argument]).data.name == "synthetic:classes=4,size=16"
    assert quote_paths(["data.name=digits,fashion_mnist"]) == ["data.name=digits,fashion_mnist"]
