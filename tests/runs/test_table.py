from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from circa_train.runs.csv_file import read_csv
from circa_train.runs.folder import FAILURE, RESULT
from circa_train.runs.networks import recipe
from circa_train.runs.sites import allocation_rows
from circa_train.runs.table import (
    EVALUATION_COLUMNS,
    collect,
    columns,
    select,
    site_rows,
    to_csv,
    to_dataframe,
    to_row,
    write_csv,
)
from circa_train.runs.text import describe_collection, format_rows


def evaluation(k: int = 12, accuracy: float = 0.9, **changed: Any) -> dict[str, Any]:
    kinds = dict.fromkeys(("wrap_zeroed", "wrap_passed", "truncation_zeroed", "truncation_passed"), 1.0)
    content = {
        "format": 1,
        "kind": "evaluate",
        "config_hash": "0123456789",
        "fingerprint": "f",
        "overrides": [f"fault.k={k}"],
        "config": {"fault": {"k": k}, "draws": {"count": 2}, "tags": [1]},
        "seconds": 1.5,
        "finished": 100.0,
        "machine": {},
        "result": {
            "accuracy": {"mean": accuracy, "std": 0.01, "low": accuracy - 0.02, "high": accuracy + 0.02,
            "draws": [0.89, 0.91],
                         "images": 359},
            "baseline_accuracy": 0.95,
            "model": "resnet8",
            "data": "digits",
            "split": "test",
            "checkpoint": "best.pt",
            "finetuned": False,
            "trained_fault": None,
            "fault": {"kind": "truncated_sign", "k": k, "mode": "poszero", "prime": 251},
            "frac_bits": 5,
            "cost": {"relus": 10, "and_gates": 30, "table_bytes": 960},
            "sites": [{"site": "relu", "relus": 10, "expected": kinds | {"values": 40},
            "observed": kinds | {"values": 40}}],
        },
    }  # fmt: skip
    return {**content, **changed}


def write(folder: Path, content: Any, name: str = RESULT) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))


def test_an_evaluation_becomes_one_flat_row() -> None:
    row = to_row(evaluation(), "runs/a")
    assert set(EVALUATION_COLUMNS) <= set(row)
    assert (row["k"], row["mode"], row["accuracy"], row["draws"], row["table_bytes"]) == (
        12,
        "poszero",
        0.9,
        2,
        960,
    )
    assert row["config.fault.k"] == 12
    assert "config.tags" not in row
    assert not any(isinstance(value, (list, dict)) for value in row.values())


def test_rows_of_finished_jobs_are_found_at_any_depth_and_once(tmp_path: Path) -> None:
    write(tmp_path / "a", evaluation(8))
    write(tmp_path / "b" / "c", evaluation(9))
    found = collect(tmp_path, tmp_path / "b", tmp_path / "a")
    assert [row["k"] for row in found.rows] == [8, 9]
    assert [row["run"] for row in collect(tmp_path / "b" / "c").rows] == [str(tmp_path / "b" / "c")]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "not JSON"),
        ('{"format": 1, "kind": "eva', "not JSON"),
        ("[1, 2]", "not a result"),
        ('{"some": "json"}', "not a result"),
        (json.dumps({**evaluation(), "format": 2}), "format 2"),
        (json.dumps({**evaluation(), "result": {"accuracy": 1.0}}), "not a result"),
    ],
)
def test_what_is_no_result_is_skipped_and_named(tmp_path: Path, content: str, reason: str) -> None:
    write(tmp_path / "good", evaluation())
    write(tmp_path / "bad", content)
    found = collect(tmp_path)
    assert len(found.rows) == 1
    assert [item.path for item in found.skipped] == [tmp_path / "bad" / RESULT]
    assert reason in found.skipped[0].reason
    assert str(tmp_path / "bad") in describe_collection(found)


def test_failures_say_why(tmp_path: Path) -> None:
    write(
        tmp_path / "a",
        {"kind": "evaluate", "overrides": ["fault.k=40"], "error": "ValueError", "message": "k = 40"},
        FAILURE,
    )
    found = collect(tmp_path)
    assert [(f.overrides, f.error, f.message) for f in found.failures] == [
        (("fault.k=40",), "ValueError", "k = 40")
    ]
    assert "fault.k=40" in describe_collection(found)


def test_the_newest_of_one_command_supersedes_the_others(tmp_path: Path) -> None:
    write(tmp_path / "old", evaluation(accuracy=0.5, finished=1.0))
    write(tmp_path / "new", evaluation(accuracy=0.6, finished=2.0))
    write(tmp_path / "elsewhere" / "old", evaluation(accuracy=0.7, finished=0.0))
    found = collect(tmp_path)
    assert sorted(row["accuracy"] for row in found.rows) == [0.6, 0.7]
    assert found.superseded == [tmp_path / "old" / RESULT]


def test_a_missing_folder_is_named_and_an_empty_one_gives_nothing(tmp_path: Path) -> None:
    assert collect(tmp_path).rows == []
    with pytest.raises(FileNotFoundError, match="nowhere"):
        collect(tmp_path / "nowhere")


def test_select_compares_as_text_and_lists_what_there_is() -> None:
    rows = [to_row(evaluation(k)) for k in (8, 12, 16)]
    assert [row["k"] for row in select(rows, {"k": "12"})] == [12]
    assert [row["k"] for row in select(rows, {"k": [8, 16], "model": "resnet8"})] == [8, 16]
    with pytest.raises(ValueError, match=r"no row has k = 13; there are 12, 16, 8"):
        select(rows, {"k": 13})
    with pytest.raises(ValueError, match="no row has a column 'colour'"):
        select(rows, {"colour": 1})


def test_the_csv_holds_every_column_and_reads_back(tmp_path: Path) -> None:
    train = {
        "format": 1,
        "kind": "train",
        "result": {"best_accuracy": 0.97, "fault": None},
        "config": {"epochs": 3},
    }
    rows = [to_row(evaluation()), to_row(train)]
    back = list(csv.DictReader(io.StringIO(to_csv(rows))))
    assert list(back[0]) == columns(rows)
    assert (back[0]["k"], back[0]["best_accuracy"], back[1]["best_accuracy"], back[1]["config.epochs"]) == (
        "12",
        "",
        "0.97",
        "3",
    )
    assert write_csv(rows, tmp_path / "t.csv").read_text() == to_csv(rows)


def test_site_rows_carry_their_evaluation(tmp_path: Path) -> None:
    write(tmp_path / "a", evaluation())
    (row,) = site_rows(collect(tmp_path))
    assert (row["site"], row["k"], row["expected.wrap_zeroed"], row["observed.values"]) == (
        "relu",
        12,
        1.0,
        40,
    )


def test_a_dataframe_for_notebooks() -> None:
    pytest.importorskip("pandas")
    frame = to_dataframe([to_row(evaluation(k)) for k in (8, 12)])
    assert list(frame["k"]) == [8, 12]


def test_the_printed_table_has_a_line_per_evaluation() -> None:
    rows = [to_row(evaluation(k)) for k in (12, 8)]
    lines = format_rows(rows).splitlines()
    assert len(lines) == 3
    assert lines[1].split()[:5] == ["resnet8", "digits", "poszero", "5", "8"]
    assert "90.00%" in lines[1]


def test_a_thousand_results_are_collected(tmp_path: Path) -> None:
    for k in range(1000):
        write(tmp_path / str(k), evaluation(k))
    assert len(collect(tmp_path).rows) == 1000


def test_a_row_says_which_network_it_is_about(tmp_path: Path) -> None:
    result = {**evaluation()["result"], "checkpoint": "runs/train/seed1-0123456789/best.pt",
              "finetuned": True, "model": "resnet8 reduced",
              "training": {"seed": 1, "recipe": "r"}}  # fmt: skip
    row = to_row(evaluation(result=result, inputs={"checkpoint": "ab" * 32}))
    named = {key: row[key] for key in ("network", "method", "seed", "recipe", "weights")}
    assert named == {
        "network": "seed1-0123456789", "method": "reduced, fine-tuned", "seed": 1, "recipe": "r",
        "weights": "ababababab",
    }  # fmt: skip
    by_site = {"fault": {"sites": {"relu": {"kind": "none"}}}, "rescaling": "offset", "equalized": True}
    row = to_row(evaluation(result=result | by_site))
    assert row["method"] == "reduced, equalized, fine-tuned, searched, integer"


def test_recipes_are_equal_for_seeds_and_nothing_else() -> None:
    config = {"seed": 0, "epochs": 3, "checkpoint": "runs/seed0/best.pt", "run": {"root": "a"}}
    other = {**config, "seed": 1, "checkpoint": "runs/seed1/best.pt", "run": {"root": "b"}}
    assert recipe(config, "baseline") == recipe(other, "baseline")
    assert recipe(config, "baseline") != recipe(other, "another")
    assert recipe(config) != recipe({**config, "epochs": 4})


def test_a_table_reads_back_to_the_same_text(tmp_path: Path) -> None:
    odd = {"config_hash": "0012345678", "overrides": ["run.name=1e5", 'tags=["a,b"]'], "kind": "evaluate"}
    rows = [to_row(evaluation(12, 0.1 + 0.2, **odd), "runs/a"), {"kind": "train", "best_accuracy": 1e-7}]
    path = write_csv(rows, tmp_path / "results.csv")
    back = read_csv(path)
    assert to_csv(back) == path.read_text()
    assert (back[0]["config_hash"], back[0]["accuracy"], back[0]["k"]) == ("0012345678", 0.1 + 0.2, 12)
    assert back[0]["finetuned"] is False
    found = collect(path)
    assert [row["kind"] for row in found.rows] == ["evaluate", "train"]
    assert site_rows(found) == []


def test_a_table_beside_its_runs_counts_no_run_twice(tmp_path: Path) -> None:
    write(tmp_path / "a", evaluation(8))
    path = write_csv(collect(tmp_path).rows, tmp_path / "results.csv")
    write(tmp_path / "b", evaluation(9))
    assert [row["k"] for row in collect(tmp_path, path).rows] == [8, 9]
    assert [row["k"] for row in collect(path).rows] == [8]


def test_a_table_of_before_there_were_networks_gets_them(tmp_path: Path) -> None:
    new = ("network", "method", "seed", "recipe", "weights")
    old = {key: value for key, value in to_row(evaluation()).items() if key not in new}
    old |= {"checkpoint": "runs/base-1/best.pt", "fault": "per site"}
    path = write_csv([old], tmp_path / "old.csv")
    (row,) = collect(path).rows
    assert (row["network"], row["method"], row["recipe"]) == ("base-1", "searched", None)


def test_a_kept_record_counts_under_its_own_name_and_a_foreign_table_is_skipped(tmp_path: Path) -> None:
    write(tmp_path, evaluation(8), "kept.json")
    (tmp_path / "foreign.csv").write_text("a,b\n1,2\n")
    found = collect(tmp_path / "kept.json", tmp_path / "foreign.csv")
    assert [row["run"] for row in found.rows] == [str(tmp_path / "kept.json")]
    assert "no table of results" in found.skipped[0].reason


def test_the_sites_of_a_search_with_their_harm(tmp_path: Path) -> None:
    site = {"site": "relu", "relus": 10, "k": 12, "and_gates": 190, "expected_faults": 0.5}
    content = {**evaluation(), "kind": "search", "result": {"k": 11, "allocation": [site]}}
    write(tmp_path, content)
    assert allocation_rows(collect(tmp_path))[0]["harm"] is None
    site |= {"harm": 0.25, "harm_k": 14}
    write(tmp_path, content)
    (row,) = allocation_rows(collect(tmp_path))
    assert (row["harm"], row["harm_k"], row["uniform_k"], row["k"]) == (0.25, 14, 11, 12)
