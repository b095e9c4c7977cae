"""What a search has measured so far, on the disk: a killed search goes on with the draw that it was making.

One JSON file, rewritten atomically after every draw (a few kilobytes, against a pass over the validation
images)::

    {"format": 2, "identity": ..., "accuracies": {"validation 12,12,14": [0.93, 0.94], ...}, "values": {...},
     "sha256": ...}

``identity`` names what was asked of which files. Measurements of another identity, or of a damaged file, are
discarded, not mixed in.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from circa_train.files import write_json
from circa_train.runs import DIGEST, read_record, sealed

log = logging.getLogger(__name__)

FORMAT = 2


class Store:
    """Accuracies by candidate, and other measured values by name.

    Args:
        path: the file, or None to keep everything in memory.
        identity: of the question and of the files it is asked of.
    """

    def __init__(self, path: Path | None = None, identity: str = "") -> None:
        self._path = path
        self._content: dict[str, Any] = {
            "format": FORMAT,
            "identity": identity,
            "accuracies": {},
            "values": {},
        }
        try:
            stored = read_record(path) if path is not None else None
        except ValueError as error:
            stored = None
            log.warning("%s is %s: everything is measured again", path, error)
        if stored is not None and (stored.get("format"), stored.get("identity")) == (FORMAT, identity):
            self._content = {key: value for key, value in stored.items() if key != DIGEST}

    def accuracies(self, key: str) -> list[float]:
        """The draws of a candidate so far, in their order."""
        return list(self._content["accuracies"].get(key, []))

    def add_accuracy(self, key: str, accuracy: float) -> None:
        self._content["accuracies"].setdefault(key, []).append(accuracy)
        self._write()

    def value(self, key: str) -> Any:
        """What :meth:`set_value` kept under this name, or None."""
        return self._content["values"].get(key)

    def set_value(self, key: str, value: Any) -> None:
        """Keep plain data that JSON can hold."""
        self._content["values"][key] = value
        self._write()

    def _write(self) -> None:
        if self._path is not None:
            write_json(self._path, sealed(self._content))
