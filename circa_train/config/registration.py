"""What Hydra has to be told: our schemas, our resolver, our sweeper, and where the YAML files are."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

from hydra.core.plugins import Plugins
from omegaconf import OmegaConf

from circa_train.config.identify import run_folder
from circa_train.config.schema import store_schemas


def register() -> None:
    """Tell Hydra our schemas, the ``${run_folder:}`` resolver and the sweeper. Calling it again changes
    nothing.
    """
    # Hydra's scan for plugins, at the first call of instance(), executes its own modules anew: a sweeper
    # imported before it would descend from a class that is replaced.
    plugins = Plugins.instance()
    # The sweeper composes with templates, whose arrival in a worker process registers: only a late import is
    # no circle.
    from hydra_plugins.circa_train_sweeper import ResumableSweeper

    store_schemas()
    OmegaConf.register_new_resolver("run_folder", lambda *, _root_: run_folder(_root_), replace=True)
    plugins.register(ResumableSweeper)


def config_folder() -> str:
    """Absolute path of the YAML files: the checkout's ``configs/`` beside this package, or the installed
    copy.
    """
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "pyproject.toml").is_file() and (checkout / "configs" / "train.yaml").is_file():
        return str(checkout / "configs")
    return str(importlib.resources.files("circa_train_configs"))
