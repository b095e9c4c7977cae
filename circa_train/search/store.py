"""What a search has measured so far, on the disk: a killed search goes on with the draw that it was making.

One JSON file, rewritten atomically after every draw (a hundred kilobytes or so, against a pass over the
validation images)::

    {"format": 5, "identity": ..., "accuracies": {"validation as it is 12,12,14": [0.93, 0.94], ...},
     "right": {the same keys: [which images, ...]}, "images": {...}, "sha256": ...}

``right`` says which images a draw classified right: one bit each, eight to a byte, in base64. ``identity``
names what was asked of which files. Measurements of another identity, or of a damaged file, are discarded,
not mixed in.
"""

from __future__ import annotations

import base64
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from circa_train.files import write_json
from circa_train.runs import DIGEST, read_record, sealed

log = logging.getLogger(__name__)

FORMAT = 5


class Store:
    """Draws by candidate.

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
            "right": {},
            "images": {},
        }
        try:
            stored = read_record(path) if path is not None else None
        except ValueError as error:
            stored = None
            log.warning("%s is %s: everything is measured again", path, error)
        if stored is not None and (stored.get("format"), stored.get("identity")) == (FORMAT, identity):
            self._content = {key: value for key, value in stored.items() if key != DIGEST}

    def draws(self, key: str) -> list[Tensor]:
        """The draws of a candidate so far, in their order: which images each classified right, bool."""
        count = self._content["images"].get(key, 0)
        packed = [base64.b64decode(text) for text in self._content["right"].get(key, [])]
        bits = [np.unpackbits(np.frombuffer(each, dtype=np.uint8), count=count) for each in packed]
        return [torch.from_numpy(each.astype(bool)) for each in bits]

    def add_draw(self, key: str, right: Tensor) -> None:
        """Keep which images one more draw of a candidate classified right."""
        packed = base64.b64encode(np.packbits(right.cpu().numpy()).tobytes()).decode()
        self._content["accuracies"].setdefault(key, []).append(float(right.double().mean()))
        self._content["right"].setdefault(key, []).append(packed)
        self._content["images"][key] = len(right)
        self._write()

    def _write(self) -> None:
        if self._path is not None:
            write_json(self._path, sealed(self._content))
