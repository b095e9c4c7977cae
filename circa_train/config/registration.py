"""What Hydra has to be told: our schemas, our resolver, our sweeper, and where the YAML files are."""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence
from pathlib import Path

from hydra.core.plugins import Plugins
from omegaconf import OmegaConf

from circa_train.config import help
from circa_train.config.naming import register_resolver
from circa_train.config.schema import own_fault, store_schemas


def register(arguments: Sequence[str] = ()) -> None:
    """Tell Hydra the schemas, the ``${run_folder:}`` resolver and the sweeper. Calling it again changes
    nothing.

    Args:
        arguments: the command line; a sign test of the user's own that it names becomes a schema.
    """
    # Hydra's scan for plugins, at the first call of instance(), executes its own modules anew: a sweeper
    # imported before it would descend from a class that is replaced.
    plugins = Plugins.instance()
    from hydra_plugins.circa_train_sweeper import ResumableSweeper

    store_schemas(own_fault(arguments))
    register_resolver()
    folder = Path(config_folder())
    OmegaConf.register_new_resolver(
        "help_groups", lambda *, _root_: help.groups(_root_, folder), replace=True
    )
    OmegaConf.register_new_resolver("help_values", lambda *, _root_: help.values(_root_), replace=True)
    plugins.register(ResumableSweeper)


def config_folder() -> str:
    """Absolute path of the YAML files: the checkout's ``configs/`` beside this package, or the installed
    copy.
    """
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "pyproject.toml").is_file() and (checkout / "configs" / "train.yaml").is_file():
        return str(checkout / "configs")
    return str(importlib.resources.files("circa_train_configs"))
