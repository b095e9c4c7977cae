"""A network as a tree of modules: one at a qualified name, and the mode of each, kept for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


def module_at(tree: nn.Module, path: str) -> nn.Module:
    """The module at a qualified name below ``tree``; where there is none, bare ones are made.

    The parts of the name may hold any character but the dot: sites are called ``relu#2``, too.
    """
    for part in path.split(".") if path else ():
        child = tree._modules.get(part)
        if child is None:
            child = tree._modules[part] = nn.Module()
        tree = child
    return tree


def put_module(tree: nn.Module, path: str, module: nn.Module) -> None:
    """Put ``module`` at a qualified name, in place of what is there; missing parents are made."""
    parent, _, name = path.rpartition(".")
    module_at(tree, parent)._modules[name] = module


@contextmanager
def kept_modes(model: nn.Module) -> Iterator[None]:
    """Whatever ``train()`` or ``eval()`` does meanwhile, afterwards every module has its own mode again."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
