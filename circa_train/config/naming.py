"""Names of run folders, resolved inside Hydra: ``${run_folder:}`` is ``<label>-<config hash>`` of the whole
configuration.
"""

from __future__ import annotations

import os
import re
from typing import Any

from omegaconf import DictConfig, OmegaConf

from circa_train.fault import sign_test_kinds
from circa_train.jobs.settings import COMMON
from circa_train.runs import config_hash
from circa_train.user_code import is_reference

#: Keys of paths in which a leading ``~`` is the user's home: a shell does not expand it after an equals sign.
HOME_KEYS = (
    "checkpoint", "teacher", "fault.path", "runs", "out", "run.root", "data.root", "export", "images",
    "compare", "pi.stores", "tls.certificate", "tls.key", "tls.authority",
)  # fmt: skip

#: Letters of a label that is not given but put together; file systems take names of 255 bytes.
_LABEL = 100


def expand_home(cfg: DictConfig) -> None:
    """Replace a leading ``~`` in the paths of a configuration, in place."""
    for key in HOME_KEYS:
        value = OmegaConf.select(cfg, key, throw_on_missing=False)
        if isinstance(value, str) and value.startswith("~"):
            OmegaConf.update(cfg, key, os.path.expanduser(value))


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The job's configuration as plain resolved data, without Hydra's own node; missing values stay
    ``"???"``.
    """
    job = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"]) if "hydra" in cfg else cfg
    container: Any = OmegaConf.to_container(job, resolve=True)
    for key in HOME_KEYS:
        *sections, last = key.split(".")
        place = container
        for section in sections:
            place = place.get(section) or {}
        if isinstance(place.get(last), str):
            place[last] = os.path.expanduser(place[last])
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
    given = bool(parts[0])
    if not given:
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
    text = re.sub(r"[^A-Za-z0-9_.-]+", "_", "-".join(str(part) for part in parts if part))
    return (text if given else text[:_LABEL]).strip("_") or "run"


def register_resolver() -> None:
    """Make ``${run_folder:}``, and ``${home:path}`` for ``~``, known to OmegaConf.

    A worker process of a sweep needs them, too.
    """
    OmegaConf.register_new_resolver("run_folder", lambda *, _root_: run_folder(_root_), replace=True)
    OmegaConf.register_new_resolver("home", os.path.expanduser, replace=True)
