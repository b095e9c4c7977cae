"""Configuration: typed schemas, their registration with Hydra, and the way from a composed configuration to
objects.

``schema`` says which keys there are; ``build`` turns sections into the package's objects; ``job`` runs one
job in its folder; ``hydra_plugins.circa_train_sweeper`` runs many. Nothing below this package knows of Hydra
or OmegaConf. Importing does nothing: scripts start through :func:`entry`, which registers.
"""

from __future__ import annotations

from circa_train.config.entry import entry
from circa_train.config.job import Job, run_job, run_tool
from circa_train.config.registration import config_folder, register

__all__ = ["Job", "config_folder", "entry", "register", "run_job", "run_tool"]
