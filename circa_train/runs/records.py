"""Records that show damage, and their order.

A record is a JSON object with ``sha256``, the digest of all that is beside it. One without is from before
format 2 and is taken as it is. Beside records lie files that their job has made: :func:`describe_files` notes
their size, modification time and digest, and :func:`changed_files` compares.

Which of two records is newer is said by a number that rises from record to record in one folder
(:func:`next_number`): clocks are set back, and differ between machines.

This module needs neither torch nor Hydra.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from circa_train.files import file_digest, json_digest, read_json

#: From this format on a record has to have its digest.
SEALED_SINCE = 2
DIGEST = "sha256"
_NUMBER = ".number"

#: The largest number that a folder's records had when this process first looked.
_KNOWN: dict[str, int] = {}


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The record with its digest, as plain JSON values."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(content), allow_nan=False))
    return {**plain, DIGEST: json_digest(plain)}


def check_seal(content: Any) -> dict[str, Any]:
    """The record as it is.

    Raises:
        ValueError: if it is no object, its digest does not match, or is missing in a format that has one.
    """
    if not isinstance(content, dict):
        raise ValueError("not an object")
    if DIGEST not in content:
        if content.get("format") not in range(1, SEALED_SINCE):
            raise ValueError(f"format {content.get('format')!r} without a digest")
        return content
    if content[DIGEST] != json_digest({key: value for key, value in content.items() if key != DIGEST}):
        raise ValueError("damaged: its content does not match its digest")
    return content


def read_record(path: Path) -> dict[str, Any] | None:
    """The record in a file, None if there is no such file.

    Raises:
        ValueError: as :func:`check_seal`, or if the file cannot be read as JSON.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"not readable as JSON ({error})") from error
    return check_seal(content)


def describe_files(folder: Path, names: Iterable[str]) -> dict[str, list[Any]]:
    """``{name: [size, modification time, SHA-256]}`` of the files that a job made, by their path in its
    folder; of a folder, of all its files.
    """
    described = {}
    for name in names:
        place = folder / name
        files = sorted(f for f in place.rglob("*") if f.is_file()) if place.is_dir() else [place]
        for file in files:
            status = file.stat()
            described[file.relative_to(folder).as_posix()] = [
                status.st_size, status.st_mtime_ns, file_digest(file),
            ]  # fmt: skip
    return described


def changed_files(folder: Path, described: Mapping[str, Any]) -> list[str]:
    """What is wrong with those files now, a line each.

    A file of the same size and time counts as the same; its content is only read if the time differs, as
    after the folder has been copied.
    """
    wrong = []
    for name, (size, time, digest) in described.items():
        try:
            status = (folder / name).stat()
        except OSError:
            wrong.append(f"{folder / name} is gone")
            continue
        same = status.st_size == size and (
            status.st_mtime_ns == time or file_digest(folder / name) == digest
        )
        if not same:
            wrong.append(f"{folder / name} is not the file that the job wrote")
    return wrong


def next_number(folder: Path, record: str) -> int:
    """A number larger than all given in this folder before, also by other processes.

    It is kept in a file beside the records, and the first call of a process looks at the records, too: the
    file may have been left behind when they were copied, or lost its last number with the power.

    Args:
        folder: holds a folder for each record.
        record: the name of the records' files, which hold ``number``.
    """
    key = str(folder.resolve())
    if key not in _KNOWN:
        stored = (read_json(path) or {} for path in folder.glob(f"*/{record}"))
        numbers = (content.get("number") for content in stored)
        _KNOWN[key] = max((n for n in numbers if isinstance(n, int)), default=0)
    try:
        descriptor = os.open(folder / _NUMBER, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:  # nobody may write here but into the run's own folder: the records are all there is
        _KNOWN[key] += 1
        return _KNOWN[key]
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        text = os.read(descriptor, 32)
        number = 1 + max(int(text) if text.isdigit() else 0, _KNOWN[key])
        os.pwrite(descriptor, str(number).encode(), 0)  # a longer number overwrites a shorter one whole
    finally:
        os.close(descriptor)
    return number
