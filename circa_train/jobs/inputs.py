"""The files a job reads, as part of its fingerprint: a result on an overwritten checkpoint is stale."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from circa_train import user_code
from circa_train.files import file_digest, read_json
from circa_train.runs.folder import flatten

#: Keys of configurations that name a file (or folder) whose contents enter the result.
INPUT_KEYS = ("checkpoint", "teacher", "fault.path")

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
