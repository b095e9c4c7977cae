"""Hydra: what it has to be told, and how it starts a job.

``schema`` registers the dataclasses of ``circa_train.jobs.settings``; ``job`` runs one job in its folder,
``sweeper`` many; ``naming`` names the folders. Nothing below this package knows of Hydra or OmegaConf.
Importing does nothing: scripts start through :func:`entry`, which registers.
"""

from __future__ import annotations

from circa_train.config.entry import entry
from circa_train.config.job import run_job, run_tool
from circa_train.config.registration import config_folder, register

__all__ = ["config_folder", "entry", "register", "run_job", "run_tool"]
