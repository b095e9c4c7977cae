"""What is looked at between composition and job, for every script: a callback of Hydra's.

Hydra accepts any key that is added with a plus, and makes the job's folder itself, with a traceback where
that fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from circa_train.config.errors import ending
from circa_train.config.naming import plain
from circa_train.config.unknown import message, unknown_keys
from circa_train.files import missing_folders, remove_empty_folders


class Checks(Callback):
    """Refuses a configuration in one line, before anything is done."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        with ending():
            check(config)
            make(Path(str(config.hydra.run.dir)))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        with ending():
            _check_folder(config)


@contextmanager
def composing() -> Iterator[None]:
    """A block in which a command that does not compose ends in one line, if there is one for its error.

    Hydra prints such an error itself and offers no hook for its words, so its loader is wrapped.
    """
    load = ConfigLoaderImpl.load_configuration

    def loaded(*arguments: Any, **options: Any) -> DictConfig:
        with ending():
            return load(*arguments, **options)

    ConfigLoaderImpl.load_configuration = loaded  # type: ignore[method-assign]
    try:
        yield
    finally:
        ConfigLoaderImpl.load_configuration = load  # type: ignore[method-assign]


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
    unknown = list(unknown_keys(config))
    if unknown:
        raise ValueError(message(config, unknown))
    plain(config)


def _check_folder(config: DictConfig) -> None:
    if config.hydra.job.chdir:
        raise ValueError(
            "hydra.job.chdir=true would let relative paths mean other files than where the command was "
            "given; leave it out: every file of a run goes into its folder anyway"
        )
