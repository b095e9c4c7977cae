"""What is looked at between composition and job, for every script: a callback of Hydra's.

Hydra accepts any key that is added with a plus, and makes the job's folder itself, with a traceback where
that fails.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from circa_train.config.errors import ending
from circa_train.config.naming import plain
from circa_train.files import missing_folders, remove_empty_folders
from circa_train.jobs.settings import PythonFaultConfig


class Checks(Callback):
    """Refuses a configuration in one line, before anything is done."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        with ending():
            check(config)
            make(Path(str(config.hydra.run.dir)))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        with ending():
            _check_folder(config)


#: Folders that this process has made for its job, the innermost first.
_MADE: list[Path] = []


def make(folder: Path) -> None:
    """Make a folder of a job or a sweep, or none, and remember which were not there."""
    _MADE[:0] = missing_folders(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # a name too long, say, below folders that it has just made
        unmake()
        raise


def unmake() -> None:
    """Remove what :func:`make` has made and nothing was put into."""
    remove_empty_folders(_MADE)
    _MADE.clear()


def check(config: DictConfig) -> None:
    """Refuse what composes and yet cannot be meant.

    Raises:
        ValueError: for a key that no part knows, naming the nearest one, or hydra.job.chdir.
        OmegaConfBaseException: for a value that cannot be resolved, such as an environment variable that is
            not set.
    """
    _check_folder(config)
    unknown = list(_unknown(config))
    if unknown:
        known = list(_known(config))
        told = []
        for key in unknown:
            names = {name.rpartition(".")[2]: name for name in known} | {name: name for name in known}
            near = difflib.get_close_matches(key, names, 1) or difflib.get_close_matches(
                key.rpartition(".")[2], names, 1
            )
            told.append(f"{key} (did you mean {names[near[0]]}?)" if near else key)
        raise ValueError(f"there is no key {', '.join(told)}; --help lists all there are")
    plain(config)


def _check_folder(config: DictConfig) -> None:
    if config.hydra.job.chdir:
        raise ValueError(
            "hydra.job.chdir=true would let relative paths mean other files than where the command was "
            "given; leave it out: every file of a run goes into its folder anyway"
        )


def _unknown(node: DictConfig, prefix: str = "") -> Iterator[str]:
    """The dotted keys of a configuration that its dataclasses do not have."""
    kind: Any = OmegaConf.get_type(node)
    fields = {field.name for field in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else None
    if kind is PythonFaultConfig:  # a sign test that is not known yet: its fields are keys here
        fields = None
    for key in node:
        name = f"{prefix}{key!s}"
        if name == "hydra":
            continue
        if fields is not None and key not in fields:
            yield name
            continue
        value = node._get_node(key)
        if isinstance(value, DictConfig) and not value._is_none() and not value._is_missing():
            yield from _unknown(value, f"{name}.")


def _known(node: DictConfig, prefix: str = "") -> Iterator[str]:
    """The dotted keys that its dataclasses have."""
    kind: Any = OmegaConf.get_type(node)
    if dataclasses.is_dataclass(kind):
        yield from (f"{prefix}{field.name}" for field in dataclasses.fields(kind))
    for key in node:
        value = node._get_node(key)
        if key != "hydra" and isinstance(value, DictConfig) and not value._is_none():
            yield from _known(value, f"{prefix}{key!s}.")
