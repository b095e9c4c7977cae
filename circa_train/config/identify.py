"""Names of run folders, resolved inside Hydra: ``${run_folder:}`` is ``<label>-<config hash>`` of the whole
configuration.
"""

from __future__ import annotations

import re
from typing import Any

from omegaconf import DictConfig, OmegaConf

from circa_train.runs.folder import config_hash


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
        parts = [part for part in parts if part != "checkpoint"]
        detail = {"truncated_sign": ("mode", "k"), "uniform": ("rate",), "bit_window": ("low", "high")}
        kind = str(fault.get("kind", ""))
        named = [f"{key}{fault[key]}" if key != "mode" else fault[key] for key in detail.get(kind, ())]
        parts += named if named else [kind]
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", "-".join(str(part) for part in parts if part)).strip("_") or "run"
