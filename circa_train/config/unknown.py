"""What is said of a key that no part of a configuration knows: the nearest one that there is, and all keys of
its group.

Hydra refuses such a key while it composes, and advises to add it with a plus. That composes, and is refused
all the same (:mod:`circa_train.config.checks`). So one message stands for both.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Sequence
from typing import Any

from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError

from circa_train.jobs.settings import PythonFaultConfig

#: Set by the choice of a group's option, and by nothing else.
_FIXED = "kind"


def unknown_keys(node: DictConfig, prefix: str = "") -> Iterator[str]:
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
            yield from unknown_keys(value, f"{name}.")


def refused_by_hydra(error: BaseException) -> str | None:
    """The message for a composition that failed on an unknown key; None for any other error."""
    cause = error.__cause__
    if not isinstance(error, ConfigCompositionException) or not isinstance(
        cause, (ConfigAttributeError, ConfigKeyError)
    ):
        return None
    node: Any = cause.parent_node
    return None if node is None or not cause.full_key else message(node._get_root(), [str(cause.full_key)])


def message(config: DictConfig, unknown: Sequence[str]) -> str:
    """What to say of keys that ``config`` does not know.

    ``there is no key fault.bits (did you mean fault.frac_bits?); fault has frac_bits, ...; --help lists all
    there are``
    """
    known = list(_known(config))
    names = {name.rpartition(".")[2]: name for name in known} | {name: name for name in known}
    told = []
    for key in unknown:
        near = difflib.get_close_matches(key, names, 1) or difflib.get_close_matches(
            key.rpartition(".")[2], names, 1
        )
        told.append(f"{key} (did you mean {names[near[0]]}?)" if near else key)
    groups = dict.fromkeys(key.rpartition(".")[0] for key in unknown)
    there = {
        group: [name.rpartition(".")[2] for name in known if name.rpartition(".")[0] == group]
        for group in groups
        if group
    }
    listed = "".join(f"; {group} has {', '.join(keys)}" for group, keys in there.items() if keys)
    return f"there is no key {', '.join(told)}{listed}; --help lists all there are"


def _known(node: DictConfig, prefix: str = "") -> Iterator[str]:
    """The dotted keys that its dataclasses have."""
    kind: Any = OmegaConf.get_type(node)
    if dataclasses.is_dataclass(kind):
        yield from (f"{prefix}{field.name}" for field in dataclasses.fields(kind) if field.name != _FIXED)
    for key in node:
        value = node._get_node(key)
        if key != "hydra" and isinstance(value, DictConfig) and not value._is_none():
            yield from _known(value, f"{prefix}{key!s}.")
