"""The tidy table as CSV, there and back, and as a DataFrame.

Rows are plain dicts and the table is CSV by the standard library; ``to_dataframe`` is there for notebooks.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circa_train.files import write_text
from circa_train.runs.networks import network_columns
from circa_train.runs.rows import Row

if TYPE_CHECKING:
    import pandas

#: Columns whose values are names, even those that look like numbers.
_NAMES = frozenset({
    "kind", "run", "config_hash", "overrides", "model", "data", "split", "checkpoint", "network", "method",
    "recipe", "weights", "fault", "mode", "direction", "severity",
})  # fmt: skip


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


def read_csv(path: str | os.PathLike[str]) -> list[Row]:
    """The rows of a table that :func:`write_csv` wrote; ``to_csv(read_csv(path))`` is the same text.

    A table of before there were columns for the network gets those that follow from the others.

    Raises:
        ValueError: if it is no such table.
    """
    with open(path, encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        if not {"kind", "run", "config_hash"} <= set(reader.fieldnames or ()):
            raise ValueError("no table of results: it has no columns kind, run, config_hash")
        rows = [{name: _value(name, text) for name, text in row.items()} for row in reader]
    for row in rows:
        if row["kind"] == "evaluate" and "network" not in row:
            row.update(network_columns({**row, "fault": {"sites": {}} if row["fault"] == "per site" else {}}))
    return rows


def _value(name: str, text: Any) -> Any:
    """What a cell says: a number only where writing it gives the same text again (a hash of digits may not
    lose its zeros), and never in a column of names.
    """
    if not isinstance(text, str):
        raise ValueError(f"a line has more or fewer cells than the header names columns ({name})")
    if name in _NAMES or name.startswith("config."):
        return text or None
    if text in ("", "True", "False"):
        return {"": None, "True": True, "False": False}[text]
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        if str(value) == text:
            return value
    return text


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
