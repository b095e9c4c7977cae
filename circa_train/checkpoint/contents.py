"""The contents of a checkpoint file: are they of our own format, and are they what was written?

A file of our own carries the digest of its values; whatever else a file holds is returned as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from circa_train.checkpoint.untrusted import CheckpointError, read_tensors

FORMAT = 1


def read_contents(path: Path) -> Any:
    """The contents of a file; those of our own format have the recorded digest and parts of the right types.

    Raises:
        CheckpointError: if the file cannot be read, is damaged, or is of another version.
    """
    content = read_tensors(path)
    if not is_native(content):
        return content
    if type(content["format"]) is not int or content["format"] != FORMAT:
        raise CheckpointError(
            f"{path} has format {content['format']!r}, this version reads {FORMAT}; update circa_train"
        )
    recorded = content.pop("sha256", None)
    if digest(content) != recorded:
        raise CheckpointError(
            f"{path} is damaged: its contents do not have the recorded SHA-256; restore it from a copy"
        )
    state = content["state_dict"]
    if not isinstance(state, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise CheckpointError(f"{path} is refused: its state_dict is no dict of tensors by name")
    for name, types in (("metadata", Mapping), ("training_state", (Mapping, type(None)))):
        if not isinstance(content[name], types):
            raise CheckpointError(f"{path} is refused: its {name} is a {type(content[name]).__name__}")
    return content


def is_native(content: Any) -> bool:
    """Whether contents are of our own format."""
    return (
        isinstance(content, Mapping)
        and {"format", "state_dict", "metadata", "training_state"} <= content.keys()
    )


def digest(value: Any) -> str:
    """SHA-256 of a tree of dicts, lists, tensors and plain values: types, keys, shapes and bytes, not the
    file's layout.
    """
    sha = hashlib.sha256()
    _update(sha.update, value)
    return sha.hexdigest()


def _update(feed: Callable[[Any], None], value: Any) -> None:
    if isinstance(value, Tensor):
        feed(f"tensor {value.dtype} {tuple(value.shape)}\n".encode())
        feed(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    elif isinstance(value, Mapping):
        feed(f"dict {len(value)}\n".encode())
        for key, item in value.items():
            feed(f"{key!r}\n".encode())
            _update(feed, item)
    elif isinstance(value, (list, tuple)):
        feed(f"list {len(value)}\n".encode())
        for item in value:
            _update(feed, item)
    else:
        feed(f"{value!r}\n".encode())
