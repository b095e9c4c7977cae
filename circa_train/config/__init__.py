"""Configuration: typed schemas, their registration with Hydra, and the way from a composed configuration to objects.

``schema`` says which keys there are; ``build`` turns sections into the package's objects; ``job`` runs one job in its
folder; ``hydra_plugins.circa_train_sweeper`` runs many. Nothing below this package knows of Hydra or OmegaConf. Importing
does nothing: scripts start through :func:`entry`, which calls :func:`register`.
"""

from __future__ import annotations

import importlib.resources
from pathlib import Path

from circa_train.config.entry import entry
from circa_train.config.job import Job, run_job, run_tool

__all__ = ["Job", "config_folder", "entry", "register", "run_job", "run_tool"]


def register() -> None:
    """Tell Hydra our schemas, the ``${run_folder:}`` resolver and the sweeper. Calling it again changes nothing."""
    from hydra.core.plugins import Plugins
    from omegaconf import OmegaConf

    from circa_train.config.identify import run_folder
    from circa_train.config.schema import store_schemas
    from hydra_plugins.circa_train_sweeper import ResumableSweeper

    store_schemas()
    OmegaConf.register_new_resolver("run_folder", lambda *, _root_: run_folder(_root_), replace=True)
    Plugins.instance().register(ResumableSweeper)


def config_folder() -> str:
    """Absolute path of the YAML files: the checkout's ``configs/`` beside this package, or the installed copy."""
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "pyproject.toml").is_file() and (checkout / "configs" / "train.yaml").is_file():
        return str(checkout / "configs")
    return str(importlib.resources.files("circa_train_configs"))
