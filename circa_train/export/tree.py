"""Modules at qualified names that may hold any character but the dot."""

from __future__ import annotations

from torch import nn


def module_at(tree: nn.Module, path: str) -> nn.Module:
    """The module at ``path`` below ``tree``; where there is none, bare ones are made."""
    for part in path.split(".") if path else ():
        child = tree._modules.get(part)
        if child is None:
            child = tree._modules[part] = nn.Module()
        tree = child
    return tree
