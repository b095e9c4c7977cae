"""The files a job reads, as part of its fingerprint: a result on an overwritten checkpoint is stale; and the
identity of the data that it saw, because a result on other data under the same name is none.
"""

from __future__ import annotations

import functools
import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from circa_train import user_code
from circa_train.files import file_digest, read_json
from circa_train.runs import flatten

#: Keys of configurations that name a file (or folder) whose contents enter the result.
INPUT_KEYS = ("checkpoint", "teacher", "fault.path", "model.reduction.masks", "reduction.price.path")

#: Keys that may name code of the user's own, whose source file enters the result.
CODE_KEYS = ("model.name", "data.name")


def input_digests(config: Mapping[str, Any]) -> dict[str, str]:
    """Digest of every input that exists; a missing one is left to the job, which says what it needed it
    for.
    """
    values = flatten(config)
    code = {key: values.get(key) for key in CODE_KEYS if user_code.is_reference(values.get(key))}
    if values.get("fault.kind") == "python":
        code["fault.path"] = values.get("fault.path")
    if values.get("run.trust_code"):
        code |= _named_by(str(values.get("checkpoint")))
    paths = {key: Path(str(values[key])) for key in INPUT_KEYS if values.get(key) not in (None, "", "???")}
    digests = {key: _digest(str(path), *_stamp(path)) for key, path in paths.items() if path.exists()}
    sources = {
        key: user_code.source_digest(str(name)) for key, name in code.items() if name not in (None, "???")
    }
    return digests | {key: digest for key, digest in sources.items() if digest is not None}


def _named_by(checkpoint: str) -> dict[str, str]:
    """The code of somebody's own that the metadata beside a checkpoint name."""
    metadata = read_json(Path(checkpoint).with_suffix(".json")) or {}
    named = {
        f"{part} of the checkpoint": (metadata.get(part) or {}).get("name") for part in ("model", "data")
    }
    references = {key: str(name) for key, name in named.items() if user_code.is_reference(name)}
    if metadata.get("fault_code"):
        references["fault of the checkpoint"] = metadata["fault_code"]
    return references


def _stamp(path: Path) -> tuple[int, int]:
    """(newest modification time, total size) of a file, or of all files of a folder."""
    files = [f for f in path.rglob("*") if f.is_file()] if path.is_dir() else [path]
    stats = [os.stat(f) for f in files]
    return max((s.st_mtime_ns for s in stats), default=0), sum(s.st_size for s in stats)


@functools.lru_cache(maxsize=64)
def _digest(path: str, _newest: int, _size: int) -> str:
    """A sweep of a thousand jobs reads its checkpoint once: the stamp is in the key."""
    return file_digest(path)


#: Folders of data sets whose files nothing vouches for, beside those that the name itself gives. The other
#: public sets are compared with their official checksums when they are decoded.
_DATA_FOLDERS = {"tiny_imagenet": "tiny-imagenet-200"}
_FOLDER_PREFIX = "imagefolder:"

#: A look at the files of a large set takes seconds, and a sweep looks before every job: one that took longer
#: than this is not repeated before it is 2% of the time that has passed since.
_QUICK, _SHARE = 0.02, 0.02
_LOOKS: dict[Path, tuple[float, float, str]] = {}


def data_identity(name: str | None, root: str | os.PathLike[str]) -> str | None:
    """A digest of the paths, sizes and modification times of a data set's image files, by the data set's
    name; None for a set that is checked against official checksums, embedded, made by a formula, or the
    user's own.
    """
    if name is not None and name.startswith(_FOLDER_PREFIX):
        place = Path(name.removeprefix(_FOLDER_PREFIX)).expanduser()
    elif name in _DATA_FOLDERS:
        place = Path(root).expanduser() / _DATA_FOLDERS[name]
    else:
        return None
    place = place.absolute()
    seen, cost, found = _LOOKS.get(place, (0.0, 0.0, ""))
    started = time.monotonic()
    if not found or cost < _QUICK or started - seen > cost / _SHARE:
        digest = hashlib.sha256()
        for line in sorted(_listing(place)):
            digest.update(line)
        found, ended = digest.hexdigest(), time.monotonic()
        _LOOKS[place] = ended, ended - started, found
    return found


def _listing(place: Path) -> Iterator[bytes]:
    """A line for every file below a folder that is not hidden; links are followed, circles left out."""
    pending, known = [(place, b"")], set()
    while pending:
        folder, name = pending.pop()
        try:
            status = folder.stat()
            entries = list(os.scandir(folder))
        except OSError as error:  # the job says what it needed it for
            yield name + f"\0{type(error).__name__}".encode()
            continue
        if (status.st_dev, status.st_ino) in known:
            continue
        known.add((status.st_dev, status.st_ino))
        for entry in entries:
            path = name + b"/" + os.fsencode(entry.name)
            if entry.name.startswith("."):
                continue
            try:
                if entry.is_dir():
                    pending.append((Path(entry.path), path))
                else:
                    file = entry.stat()
                    yield path + f"\0{file.st_size}\0{file.st_mtime_ns}".encode()
            except OSError:  # a link that leads nowhere
                yield path + b"\0"
