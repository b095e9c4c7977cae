"""Files that are there whole or not at all, JSON, and digests.

Whatever moment a process is killed at, or the power fails, a reader finds the old file or the new one, never
a part of one: the content goes to a file of another name in the same folder, is forced to the disk, and then
takes its place by one rename. That other name is ``.<name>.<random>.partial``, so two processes that write
the same file do not disturb each other: the last one wins. What a killed process left under such a name is
removed by the first write of the same file that comes more than a day later.

This module needs neither torch nor Hydra.
"""

from __future__ import annotations

import ctypes
import glob
import hashlib
import json
import os
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path
from typing import Any, BinaryIO

#: What nobody has written to for a day is left over; no write takes that long.
LEFTOVER_SECONDS = 24 * 3600


def write_file(path: str | os.PathLike[str], write: Callable[[BinaryIO], Any]) -> None:
    """Make or replace a file by what ``write`` puts into the binary file it is given; see the module's text.

    Missing folders are made. If ``write`` fails, the old file stays and nothing is left.
    """
    path = Path(path)
    temporary = _temporary(path)
    try:
        with temporary.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _force_names(path.parent)


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """:func:`write_file` of bytes that are there already."""
    write_file(path, lambda file: file.write(content))


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """:func:`write_file` of text, as UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """:func:`write_text` of strict JSON: a NaN or an object that JSON does not know is an error here, not at
    the reader.
    """
    write_text(path, json_text(value))


def append_line(path: str | os.PathLike[str], line: bytes) -> None:
    """Add a line to a file and force it to the disk; the file is made if it is missing.

    A process that is killed meanwhile leaves at most a part of the line, without its newline. If writing
    fails (a full disk), what was written of it is taken back.
    """
    path = Path(path)
    new = not path.exists()
    with path.open("ab", buffering=0) as file:
        before = file.seek(0, os.SEEK_END)
        try:
            rest = memoryview(line + b"\n")
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):
                file.truncate(before)
            raise
    if new:
        _force_names(path.parent)


def cut_off(path: str | os.PathLike[str], length: int) -> None:
    """Shorten a file to its first ``length`` bytes, on the disk."""
    with Path(path).open("r+b") as file:
        file.truncate(length)
        os.fsync(file.fileno())


def json_text(value: Any) -> str:
    """``value`` as strict JSON, indented, with a newline at its end."""
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


def read_json(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The JSON object in a file, or None if there is no readable one."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


@contextmanager
def whole_folder(path: str | os.PathLike[str], *, replace: bool) -> Iterator[Path]:
    """A folder to be filled, which gets the name ``path`` when the block ends; if it fails, nothing is left.

    Args:
        path: the name.
        replace: what happens to a folder that has the name by then: it goes, or it stays and the new one
            goes (another process made the same meanwhile). On Linux and macOS both folders exchange their
            names in one step; where the system or the file system cannot do that, it takes two renames, and
            between them there is no folder of that name.
    """
    path = Path(path)
    temporary, replaced = _temporary(path), _temporary(path)
    try:
        temporary.mkdir()
        yield temporary
        if replace and path.is_dir():  # a folder that is not empty cannot be renamed over
            if _exchange(temporary, path):
                _force_names(path.parent)
                return
            path.rename(replaced)
        try:
            temporary.rename(path)
        except OSError:
            if replaced.is_dir():
                replaced.rename(path)
            if replace or not path.is_dir():
                raise
        _force_names(path.parent)
    finally:
        for folder in (temporary, replaced):
            shutil.rmtree(folder, ignore_errors=True)


def file_digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's contents, or of the names and contents of all files in a folder."""
    path = Path(path)
    digest = hashlib.sha256()
    for file in sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]:
        if path.is_dir():
            digest.update(str(file.relative_to(path)).encode())
        with file.open("rb") as stream:
            hashlib.file_digest(stream, lambda: digest)
    return digest.hexdigest()


def json_digest(value: Any) -> str:
    """SHA-256 of a value that JSON can say; the order of keys and white space do not matter."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def set_aside(path: str | os.PathLike[str], why: str) -> Path | None:
    """Rename a file to ``<stem>.<why>-<n><suffix>`` with a free n, so that it is neither used nor lost;
    returns the new path, or None if there is no such file.
    """
    path = Path(path)
    number = 1
    while (new := path.with_name(f"{path.stem}.{why}-{number}{path.suffix}")).exists():
        number += 1
    try:
        path.rename(new)
    except FileNotFoundError:
        return None
    _force_names(path.parent)
    return new


def _exchange(one: Path, other: Path) -> bool:
    """Let two names change places in one step; False, and nothing done, where that does not exist."""
    names = {"linux": ("renameat2", -100), "darwin": ("renameatx_np", -2)}  # with AT_FDCWD
    if sys.platform not in names:
        return False
    function, here = names[sys.platform]
    try:
        rename = getattr(ctypes.CDLL(None), function)
    except (OSError, AttributeError):  # a C library that does not offer it
        return False
    swap = 2  # RENAME_EXCHANGE on Linux, RENAME_SWAP on macOS
    return rename(here, os.fsencode(one), here, os.fsencode(other), ctypes.c_uint(swap)) == 0


def _temporary(path: Path) -> Path:
    """A new name beside ``path``, old leftovers of such names removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        with suppress(OSError):  # another process may have removed it, or finished it
            if time.time() - leftover.stat().st_mtime > LEFTOVER_SECONDS:
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.partial")


def _force_names(folder: Path) -> None:
    """Force to the disk which files a folder holds: without this, a power cut may undo a rename."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def shown_path(path: str | os.PathLike[str]) -> str:
    """Relative to the working directory where it lies in it, so that records say nothing of whose home they
    were made in, and stay right where the whole folder is moved; else as it is.
    """
    place = Path(path)
    here = Path.cwd()
    return str(place.relative_to(here)) if place.is_absolute() and place.is_relative_to(here) else str(place)


def missing_folders(path: str | os.PathLike[str]) -> list[Path]:
    """The folder and those above it that do not exist, the innermost first: what ``mkdir -p`` would make."""
    place = Path(path).absolute()
    return list(takewhile(lambda folder: not folder.exists(), (place, *place.parents)))


def remove_empty_folders(folders: Iterable[Path]) -> None:
    """Remove those that are there and empty, in the order given; the others stay."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
