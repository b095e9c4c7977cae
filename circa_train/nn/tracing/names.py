"""Qualified names that a network has, and new ones that it has not."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn


def unused_name(name: str, taken: Callable[[str], bool]) -> str:
    """``name``, or the first of ``name_2``, ``name_3``, ... that is not taken."""
    number, candidate = 1, name
    while taken(candidate):
        number += 1
        candidate = f"{name}_{number}"
    return candidate


def taken_names(model: nn.Module) -> set[str]:
    """Qualified names of everything that a network holds: modules, parameters, buffers."""
    named = (model.named_modules, model.named_parameters, model.named_buffers)
    return {name for names in named for name, _ in names(remove_duplicate=False)}
