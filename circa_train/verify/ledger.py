"""Finished batches on disk, so that a verification that is stopped or killed goes on where it was.

One file per batch, there whole or not at all (:mod:`circa_train.files`). A file counts only if it is
undamaged and answers the same question: the *identity* of the verification (network, weights, sign tests,
seeds, machine), and the *inputs* of the batch, by digest. Anything else in its place is computed again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from circa_train.files import read_json, write_json

FORMAT = 1


class Ledger:
    """The batches of one verification.

    Args:
        folder: where they are written; None keeps nothing.
        identity: of the verification, see :func:`digest_of`.
    """

    def __init__(self, folder: Path | None, identity: str) -> None:
        self._folder, self._identity = folder, identity

    def find(self, batch: int, inputs: str) -> dict[str, Any] | None:
        """What was written of a batch with these inputs, or None."""
        if self._folder is None:
            return None
        stored = read_json(self._path(batch)) or {}
        content = stored.get("content")
        valid = isinstance(content, dict) and stored.get("digest") == self._digest(batch, inputs, content)
        return content if valid else None

    def write(self, batch: int, inputs: str, content: Mapping[str, Any]) -> None:
        """Write a batch down."""
        if self._folder is not None:
            plain = dict(content)
            write_json(
                self._path(batch), {"content": plain, "digest": self._digest(batch, inputs, plain)}
            )

    def _digest(self, batch: int, inputs: str, content: Mapping[str, Any]) -> str:
        return digest_of([FORMAT, self._identity, batch, inputs, content])

    def _path(self, batch: int) -> Path:
        assert self._folder is not None
        return self._folder / f"{batch:06d}.json"


def digest_of(value: Any) -> str:
    """SHA-256 of plain data, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
