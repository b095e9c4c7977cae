"""Run folders -> one tidy table.

``collect`` walks any number of folders and turns every ``result.json`` below them into one flat row. Files
that are half written, empty, damaged, foreign, of a newer format or of another run's folder are skipped,
counted and named. Rows are plain dicts and the table is CSV by the standard library; ``to_dataframe`` is
there for notebooks.

Columns of every row: ``kind, run, config_hash, finished, seconds, overrides``, the result's numbers and
names, and the whole configuration as ``config.<key>``. Rows of evaluations have fixed names
(``EVALUATION_COLUMNS``); other kinds keep the names that the job gave; ``severity`` is the field of the fault
model that says how severe it is, ``level`` its value. Lists stay out of the table: per-site
figures come from ``site_rows``.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circa_train.fault import sign_test_kinds
from circa_train.files import read_json, write_text
from circa_train.runs.folder import FAILURE, FORMAT, RESULT, STARTED, flatten
from circa_train.runs.records import check_seal

if TYPE_CHECKING:
    import pandas

Row = dict[str, Any]

EVALUATION_COLUMNS = (
    "model", "data", "split", "checkpoint", "finetuned", "trained_k",
    "fault", "mode", "k", "prime", "rate", "direction", "low", "high", "severity", "level", "frac_bits",
    "accuracy", "accuracy_low", "accuracy_high", "accuracy_std", "draws", "images", "baseline_accuracy",
    "relus", "and_gates", "table_bytes",
)  # fmt: skip


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
    """Read every job below ``folders`` (a run folder itself counts too); no file is read twice.

    Raises:
        FileNotFoundError: if a folder does not exist.
    """
    found = Collection()
    newest: dict[tuple[Any, ...], tuple[int, float, Path]] = {}
    pending: list[tuple[tuple[Any, ...], Path, dict[str, Any], Row]] = []
    for path in _job_files(folders):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if path.name == FAILURE:
                found.failures.append(_failure(path, content))
                continue
            row = to_row(content, path.parent)
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
    return found


def to_row(content: Mapping[str, Any], run: str | os.PathLike[str] = "") -> Row:
    """One flat row from the content of a ``result.json``.

    Raises:
        ValueError: if it is not a result of this format.
    """
    if (
        not isinstance(content, Mapping)
        or "kind" not in content
        or not isinstance(content.get("result"), Mapping)
    ):
        raise ValueError("not a result of circa_train: no 'kind' and 'result' in it")
    if content.get("format") not in range(1, FORMAT + 1):
        raise ValueError(f"format {content.get('format')!r}; this version reads formats 1 to {FORMAT}")
    row: Row = {
        "kind": content["kind"],
        "run": str(run),
        "config_hash": content.get("config_hash"),
        "finished": content.get("finished"),
        "seconds": content.get("seconds"),
        "overrides": " ".join(content.get("overrides") or []),
    }
    result = content["result"]
    row.update(_evaluation_columns(result) if content["kind"] == "evaluate" else _scalars(flatten(result)))
    row.update(
        {f"config.{key}": value for key, value in _scalars(flatten(content.get("config") or {})).items()}
    )
    return row


def site_rows(collection: Collection) -> list[Row]:
    """One row per evaluated site: the evaluation's columns, and the site's expected and observed faults."""
    rows: list[Row] = []
    for row, content in zip(collection.rows, collection.raw, strict=True):
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


def columns(rows: Iterable[Row]) -> list[str]:
    """All columns, each once, in the order they first come; the configuration's last."""
    names: dict[str, None] = {}
    for row in rows:
        names.update(dict.fromkeys(row))
    return sorted(names, key=lambda name: name.startswith("config."))


def to_csv(rows: Sequence[Row]) -> str:
    """The table as CSV text with a header; a value that a row lacks is empty."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns(rows), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def write_csv(rows: Sequence[Row], path: str | os.PathLike[str]) -> Path:
    """Write :func:`to_csv` atomically, and return the path."""
    write_text(path, to_csv(rows))
    return Path(path)


def to_dataframe(rows: Sequence[Row]) -> pandas.DataFrame:
    """The table as a pandas DataFrame.

    Raises:
        ImportError: if pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise ImportError(
            "a DataFrame needs pandas: pip install 'circa_train[tables]'; or read the CSV"
        ) from error
    return pandas.DataFrame(rows, columns=columns(rows))


def _job_files(folders: Iterable[str | os.PathLike[str]]) -> list[Path]:
    found: set[Path] = set()
    for folder in map(Path, folders):
        if not folder.exists():
            raise FileNotFoundError(
                f"there is no folder {folder}; give run folders, or a folder that holds some"
            )
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


def _scalars(flat: Mapping[str, Any]) -> Row:
    return {key: value for key, value in flat.items() if not isinstance(value, (list, tuple, dict))}


def _evaluation_columns(result: Mapping[str, Any]) -> Row:
    fault: Mapping[str, Any] = result["fault"]
    accuracy: Mapping[str, Any] = result["accuracy"]
    trained: Mapping[str, Any] = result.get("trained_fault") or {}
    k, known = fault.get("k"), sign_test_kinds().get(str(fault.get("kind")))
    severity = result.get("severity") or (known.severity if known is not None else None)
    level = fault.get(severity) if severity is not None else None
    frac_bits = result.get("frac_bits")
    row: Row = {
        **{key: result.get(key) for key in ("model", "data", "split", "checkpoint", "finetuned")},
        "trained_k": trained.get("k"),
        "fault": fault.get("kind", "per site"),
        **{key: fault.get(key) for key in ("mode", "prime", "rate", "direction", "low", "high")},
        "k": k if not isinstance(k, list) else None,
        "severity": severity,
        "level": level if not isinstance(level, list) else None,
        "frac_bits": "per-channel" if isinstance(frac_bits, Mapping) else frac_bits,
        "accuracy": accuracy["mean"],
        "accuracy_low": accuracy["low"],
        "accuracy_high": accuracy["high"],
        "accuracy_std": accuracy.get("std"),
        "draws": len(accuracy.get("draws") or ()),
        "images": accuracy.get("images"),
        "baseline_accuracy": result.get("baseline_accuracy"),
        **(result.get("cost") or {}),
    }
    return {key: row.get(key) for key in EVALUATION_COLUMNS}
