"""The blocks of a converted network: places for parameters, submodules and hooks, at their old names.

The forward of a converted network is one flat graph, so a block in it is not called as a module is. Two steps
in the graph, where its forward began and where it ended, do what the call would have done around the forward:
they run the block's hooks, those it had before the conversion and those registered since. Without hooks they
pass on what they got.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import BackwardHook

#: Everything of a module that is a hook, or says what kind of hook.
HOOKS = (
    "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_forward_hooks", "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called", "_backward_hooks", "_backward_pre_hooks", "_is_full_backward_hook",
    "_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks",
)  # fmt: skip


class Block(nn.Module):
    """Stands for a module whose forward is part of the network's graph."""

    def __init__(self, kind: str = "") -> None:
        super().__init__()
        self.kind = kind

    def _get_name(self) -> str:
        return self.kind or "Block"

    def forward(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError(
            f"this {self._get_name()} is part of a converted network, whose forward is one graph: it does "
            "not run by itself. Convert the plain block, or take its output from the network by a hook"
        )


def copy_hooks(source: nn.Module, target: nn.Module) -> None:
    """Let ``target`` run the hooks of ``source``, before its own; adding and removing stays apart."""
    for name in HOOKS:
        ours, theirs = getattr(target, name, None), getattr(source, name, None)
        if isinstance(theirs, dict) and isinstance(ours, dict):
            merged = copy.copy(theirs)
            merged.update(ours)
            setattr(target, name, merged)
        elif theirs is not None:
            setattr(target, name, theirs)


def has_hooks(module: nn.Module) -> bool:
    """Whether a call of the module would run anything but its forward."""
    return bool(
        module._forward_pre_hooks
        or module._forward_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


class Entered:
    """A block that is running: what it was called with, after its hooks had a say."""

    __slots__ = ("args", "backward", "block", "kwargs")

    def __init__(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.block, self.args, self.kwargs = block, args, kwargs
        self.backward: BackwardHook | None = None


def enter(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Entered:
    """What :meth:`torch.nn.Module.__call__` does before the forward."""
    entered = Entered(block, args, kwargs)
    if not has_hooks(block):
        return entered
    for key, hook in block._forward_pre_hooks.items():
        if key in block._forward_pre_hooks_with_kwargs:
            given = hook(block, entered.args, entered.kwargs)
            if given is not None:
                entered.args, entered.kwargs = given
        else:
            given = hook(block, entered.args)
            if given is not None:
                entered.args = given if isinstance(given, tuple) else (given,)
    full, _ = block._get_backward_hooks() if block._backward_hooks else ([], [])
    before = block._get_backward_pre_hooks() if block._backward_pre_hooks else []
    if full or before:
        entered.backward = BackwardHook(block, full, before)
        entered.args = entered.backward.setup_input_hook(entered.args)
    return entered


def leave(entered: Entered, result: Any) -> Any:
    """What :meth:`torch.nn.Module.__call__` does after the forward."""
    block = entered.block
    if not has_hooks(block):
        return result
    for key, hook in block._forward_hooks.items():
        if key in block._forward_hooks_with_kwargs:
            given = hook(block, entered.args, entered.kwargs, result)
        else:
            given = hook(block, entered.args, result)
        if given is not None:
            result = given
    if entered.backward is not None:
        result = entered.backward.setup_output_hook(result)
    _, old = block._get_backward_hooks() if block._backward_hooks else ([], [])
    for hook in old:  # of the kind before full_backward_hook: they watch the last step of the block
        if isinstance(result, Tensor) and result.grad_fn is not None:
            result.grad_fn.register_hook(partial(hook, block))
    return result


def block_begins() -> None:
    """A mark in a graph: here the forward of a block begins; ``meta`` has its ``path``, ``args``,
    ``kwargs``.
    """


def block_ends() -> None:
    """A mark in a graph: here it ends; ``meta`` has the mark of its beginning and its ``result``."""
