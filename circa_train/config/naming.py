"""Names of run folders, resolved inside Hydra: ``${run_folder:}`` is ``<label>-<config hash>`` of the whole
configuration.
"""

from __future__ import annotations

import re
from typing import Any

from omegaconf import DictConfig, OmegaConf

from circa_train.fault import sign_test_kinds
from circa_train.jobs.settings import COMMON
from circa_train.runs.folder import config_hash
from circa_train.user_code import is_reference


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The job's configuration as plain resolved data, without Hydra's own node; missing values stay
    ``"???"``.
    """
    job = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"]) if "hydra" in cfg else cfg
    container = OmegaConf.to_container(job, resolve=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def run_folder(cfg: DictConfig) -> str:
    """The folder's name for a composed configuration: readable label, then the hash that tells jobs apart."""
    config = plain(cfg)
    return f"{label(config)}-{config_hash(config)}"


def label(config: dict[str, Any]) -> str:
    """``run.name`` if given, else what a reader would look for: model and data if there are any, and the
    fault.
    """
    parts = [(config.get("run") or {}).get("name")]
    if not parts[0]:
        fault = config.get("fault") or {}
        parts = [(config.get(group) or {}).get("name") for group in ("model", "data", "benchmark")]
        parts = [
            str(part).rpartition(":")[2] if is_reference(part) else part
            for part in parts
            if part != "checkpoint"
        ]
        kind, path = str(fault.get("kind", "")), str(fault.get("path", ""))
        if kind == "python":  # not imported for a name
            own = {
                key: value for key, value in fault.items() if key not in ("kind", "path", "prime", *COMMON)
            }
            parts += [path.rpartition(":")[2], *(f"{key}{value}" for key, value in own.items())]
        else:
            known = sign_test_kinds().get(kind)
            parts.append(kind if known is None else known.label(fault))
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", "-".join(str(part) for part in parts if part)).strip("_") or "run"


def register_resolver() -> None:
    """Make ``${run_folder:}`` known to OmegaConf; a worker process of a sweep needs it, too."""
    OmegaConf.register_new_resolver("run_folder", lambda *, _root_: run_folder(_root_), replace=True)
