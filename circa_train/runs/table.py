"""Run folders -> one tidy table.

``collect`` walks any number of folders and turns every ``result.json`` below them into one flat row
(:mod:`circa_train.runs.rows`); a table that was written before, a CSV file, gives its rows again, and a
record that was kept under another name, a JSON file, gives one. Files that are half written, empty, damaged,
foreign, of a newer format or of another run's folder are skipped, counted and named.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from circa_train.files import read_json
from circa_train.runs.csv_file import columns, read_csv, to_csv, to_dataframe, write_csv
from circa_train.runs.folder import FAILURE, RESULT, STARTED, flatten
from circa_train.runs.records import check_seal
from circa_train.runs.rows import EVALUATION_COLUMNS, Row, to_row

__all__ = [
    "EVALUATION_COLUMNS",
    "Collection",
    "Failure",
    "Row",
    "Skipped",
    "collect",
    "columns",
    "select",
    "site_rows",
    "to_csv",
    "to_dataframe",
    "to_row",
    "write_csv",
]


@dataclass(frozen=True)
class Skipped:
    """A file that gave no row, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Failure:
    """A job that failed: what it was asked, and what it said."""

    path: Path
    kind: str
    overrides: tuple[str, ...]
    error: str
    message: str


@dataclass
class Collection:
    """What was found below some folders.

    Attributes:
        rows: one flat dict per finished job, in the order of their paths.
        raw: the files' contents, in the same order.
        skipped: files without a row.
        failures: jobs that failed and have not succeeded since.
        superseded: results left out because the same command gave a newer one under other defaults: one with
            a larger number (:func:`circa_train.runs.records.next_number`), where results have none the one
            that finished later.
    """

    rows: list[Row] = field(default_factory=list)
    raw: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    superseded: list[Path] = field(default_factory=list)


def collect(*folders: str | os.PathLike[str]) -> Collection:
    """Read every job below ``folders`` (a run folder itself counts too, and so does a file: a record, or a
    table as CSV); no file is read twice, and no run of a table that was found in its folder.

    Raises:
        FileNotFoundError: if a folder does not exist.
    """
    found = Collection()
    newest: dict[tuple[Any, ...], tuple[int, float, Path]] = {}
    pending: list[tuple[tuple[Any, ...], Path, dict[str, Any], Row]] = []
    tables: list[Path] = []
    for path in _job_files(folders):
        if path.suffix == ".csv":
            tables.append(path)
            continue
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if path.name == FAILURE:
                found.failures.append(_failure(path, content))
                continue
            row = to_row(content, path.parent if path.name == RESULT else path)
            check_seal(content)
            _check_place(content, path.parent)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            found.skipped.append(Skipped(path, _reason(error)))
            continue
        key = (path.parent.parent, row["kind"], *sorted(content.get("overrides") or [path.parent.name]))
        pending.append((key, path, content, row))
        age = (int(content.get("number") or 0), float(row["finished"] or 0), path)
        newest[key] = max(newest.get(key, age), age)
    for key, path, content, row in pending:
        if newest[key][-1] != path:
            found.superseded.append(path)
            continue
        found.rows.append(row)
        found.raw.append(content)
    for path in tables:
        _add_table(found, path)
    return found


def _add_table(found: Collection, path: Path) -> None:
    """The rows of a table, without those that were found in their folders; they have no figures per site."""
    try:
        rows = read_csv(path)
    except (OSError, ValueError) as error:
        found.skipped.append(Skipped(path, _reason(error)))
        return
    known = {(row["run"], row["config_hash"]) for row in found.rows}
    for row in rows:
        if (row["run"], row["config_hash"]) not in known:
            found.rows.append(row)
            found.raw.append({"kind": row["kind"], "result": {}})


def site_rows(collection: Collection) -> list[Row]:
    """One row per evaluated site: the evaluation's columns, and the site's expected and observed faults."""
    rows: list[Row] = []
    for row, content in zip(collection.rows, collection.raw, strict=True):
        if row["kind"] != "evaluate":
            continue
        base = {key: value for key, value in row.items() if not key.startswith("config.")}
        rows.extend({**base, **flatten(site)} for site in content["result"].get("sites") or ())
    return rows


def select(rows: Iterable[Row], where: Mapping[str, Any]) -> list[Row]:
    """The rows whose columns have the given values (a list: any of them). Values are compared as text, so
    "12" finds 12.

    Raises:
        ValueError: if no row has such a column, or none has such a value; the message lists those there are.
    """
    kept = list(rows)
    for column, wanted in where.items():
        values = wanted if isinstance(wanted, Sequence) and not isinstance(wanted, str) else [wanted]
        seen = {str(row[column]) for row in kept if column in row}
        if not seen and kept:
            raise ValueError(f"no row has a column {column!r}; there are {', '.join(columns(kept))}")
        kept = [row for row in kept if column in row and str(row[column]) in {str(v) for v in values}]
        if not kept:
            raise ValueError(
                f"no row has {column} = {', '.join(map(str, values))}; there are "
                f"{', '.join(sorted(seen)) or 'no rows'}"
            )
    return kept


def _job_files(folders: Iterable[str | os.PathLike[str]]) -> list[Path]:
    found: set[Path] = set()
    for folder in map(Path, folders):
        if not folder.exists():
            raise FileNotFoundError(
                f"there is no folder {folder}; give run folders, or a folder that holds some"
            )
        if folder.is_file():
            found.add(folder)
            continue
        for directory, _, files in os.walk(folder):
            found.update(Path(directory, name) for name in (RESULT, FAILURE) if name in files)
    return sorted(found)


def _check_place(content: Mapping[str, Any], folder: Path) -> None:
    """ValueError if a sound result lies in the folder of another run: who copied it there would read it under
    a wrong name.
    """
    told, named = content.get("config_hash"), re.search(r"-([0-9a-f]{10})$", folder.absolute().name)
    if told is not None and named is not None and named[1] != told:
        raise ValueError(f"the result of another run, {told}, in the folder of {named[1]}")
    started = (read_json(folder / STARTED) or {}).get("fingerprint")
    if started is not None and content.get("fingerprint") not in (None, started):
        raise ValueError(f"the result of another run than the one that {folder / STARTED} names")


def _failure(path: Path, content: Any) -> Failure:
    return Failure(
        path.parent,
        content["kind"],
        tuple(content.get("overrides") or ()),
        content["error"],
        content["message"],
    )


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON ({error.msg} at line {error.lineno}): half written, or foreign"
    if isinstance(error, (KeyError, TypeError, AttributeError)):
        return f"not a result of circa_train ({type(error).__name__}: {error})"
    return str(error)
