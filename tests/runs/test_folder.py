from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest

from circa_train.files import file_digest, read_json
from circa_train.runs import folder as module
from circa_train.runs.folder import (
    FAILURE,
    RESULT,
    RunFolder,
    changes,
    config_hash,
    fingerprint,
    flatten,
    identity,
    same_command,
    stored_results,
)

CONFIG = {
    "fault": {"kind": "truncated_sign", "k": 12},
    "seed": 0,
    "run": {"root": "runs"},
    "data": {"name": "digits", "root": "data"},
}


def test_only_what_alters_the_result_enters_the_hash() -> None:
    moved = {**CONFIG, "run": {"root": "elsewhere", "device": "cuda"}, "tracker": {"name": "wandb"}}
    moved["data"] = {"name": "digits", "root": "/mnt", "download": True}
    assert config_hash(moved) == config_hash(CONFIG)
    assert identity(moved) == {
        "data.name": "digits",
        "fault.k": 12,
        "fault.kind": "truncated_sign",
        "seed": 0,
    }
    for other in (
        {**CONFIG, "seed": 1},
        {**CONFIG, "fault": {"kind": "truncated_sign", "k": 13}},
        {**CONFIG, "runs": "x"},
    ):
        assert config_hash(other) != config_hash(CONFIG)


def test_the_hash_does_not_depend_on_the_order_of_keys() -> None:
    assert config_hash(dict(reversed(CONFIG.items()))) == config_hash(CONFIG)


def test_flatten_keeps_lists_and_empty_mappings() -> None:
    assert flatten({"a": {"b": [1, {"c": 2}], "d": {}}, "e": None}) == {
        "a.b": [1, {"c": 2}],
        "a.d": {},
        "e": None,
    }


def test_the_fingerprint_adds_the_contents_of_inputs(tmp_path: Path) -> None:
    file = tmp_path / "best.pt"
    file.write_bytes(b"first")
    before = fingerprint(CONFIG, {"checkpoint": file_digest(file)})
    file.write_bytes(b"other")
    assert fingerprint(CONFIG, {"checkpoint": file_digest(file)}) != before != fingerprint(CONFIG)


def test_changes_name_key_old_and_new() -> None:
    assert changes(CONFIG, {**CONFIG, "seed": 3, "run": {}}) == ["seed: 0 -> 3"]
    assert changes(CONFIG, {**CONFIG, "draws": 5}) == ["draws: (not there) -> 5"]


def folder(path: Path, **changed: object) -> RunFolder:
    return RunFolder(path, "evaluate", {**CONFIG, **changed}, overrides=("fault.k=12",))


def test_a_finished_job_is_recognised_and_any_difference_is_not(tmp_path: Path) -> None:
    run = folder(tmp_path / "a")
    assert run.finished() is None
    run.start("config: 1\n")
    assert run.finished() is None
    content = run.finish({"accuracy": 0.5})
    assert content == read_json(run.path / RESULT) == folder(tmp_path / "a").finished()
    assert content["kind"] == "evaluate"
    assert content["config_hash"] == config_hash(CONFIG)
    assert folder(tmp_path / "a", seed=1).finished() is None
    changed_input = RunFolder(run.path, "evaluate", CONFIG, inputs={"checkpoint": "digest"})
    assert changed_input.finished() is None


def test_a_half_written_or_foreign_result_is_no_result(tmp_path: Path) -> None:
    run = folder(tmp_path)
    for text in ("", '{"fingerprint": ', "[1]", "null", '{"fingerprint": "other"}'):
        (tmp_path / RESULT).write_text(text)
        assert run.finished() is None


def test_starting_says_whether_the_same_question_was_begun_before(tmp_path: Path) -> None:
    assert folder(tmp_path).start("") is False
    assert folder(tmp_path).start("") is True
    assert folder(tmp_path, seed=1).start("") is False


def test_a_changed_default_is_named(tmp_path: Path) -> None:
    before = folder(tmp_path / "old")
    before.start("")
    before.finish({})
    after = folder(tmp_path / "new", seed=7)
    assert after.stale(stored_results(tmp_path)) == ["seed: 0 -> 7"]
    other_command = RunFolder(tmp_path / "new", "evaluate", {**CONFIG, "seed": 7}, overrides=("fault.k=13",))
    assert other_command.stale(stored_results(tmp_path)) == []


def test_an_overwritten_checkpoint_is_named(tmp_path: Path) -> None:
    config = {**CONFIG, "checkpoint": "best.pt"}
    before = RunFolder(tmp_path, "evaluate", config, inputs={"checkpoint": "1"})
    before.start("")
    before.finish({})
    assert RunFolder(tmp_path, "evaluate", config, inputs={"checkpoint": "2"}).stale() == [
        "contents of checkpoint (best.pt)"
    ]
    assert before.stale() == []
    assert RunFolder(tmp_path, "evaluate", config).stale() == ["checkpoint was read then, and now is not"]


def test_a_failure_is_recorded_and_a_later_start_removes_it(tmp_path: Path) -> None:
    run = folder(tmp_path)
    run.start("")
    run.fail(ValueError("k = 31 is too much"))
    failure = read_json(tmp_path / FAILURE)
    assert failure is not None
    assert (failure["error"], failure["message"]) == ("ValueError", "k = 31 is too much")
    run.start("")
    assert not (tmp_path / FAILURE).exists()


def test_commands_compare_without_order() -> None:
    stored = json.loads('{"kind": "evaluate", "overrides": ["b=2", "a=1"]}')
    assert same_command(stored, "evaluate", ["a=1", "b=2"])
    assert not same_command(stored, "train", ["a=1", "b=2"])
    assert not same_command(stored, "evaluate", ["a=1"])


def test_the_commit_is_the_one_that_the_job_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = iter(["first", "", "second", ""])
    monkeypatch.setattr(module, "_git", lambda *_: next(commits))
    monkeypatch.setattr(module, "code_version", functools.cache(module.code_version.__wrapped__))
    run = folder(tmp_path / "run")
    run.start("a: 1\n")
    assert json.loads((run.path / "started.json").read_text())["commit"] == "first"
    assert run.finish({})["commit"] == "first"
