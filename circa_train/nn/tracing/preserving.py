"""Look at a network without leaving a trace in it.

Tracing runs the network's own Python on stand-ins for tensors, and measuring runs it on images. Either way
the forward may count its calls, keep a feature map in an attribute, append to a list or add to a buffer.
Inside :func:`unchanged` all of this may happen; afterwards it did not.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

#: Whose objects are no part of a network, though an attribute of it may point at them.
_FOREIGN = {"torch", "numpy", "circa_train", *sys.stdlib_module_names}


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Whatever happens meanwhile to the network's attributes, containers and buffers is undone at the end.

    Followed are modules, registered or not, lists, dicts, sets, and objects of the user's own classes; values
    of buffers, ``requires_grad``, modes and hooks come back, too. Values of parameters are not watched: no
    forward changes them.
    """
    undo = [*_containers(model), *_buffers(model)]
    gradients = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield
    finally:
        for restore in undo:
            restore()
        for parameter, requires_grad in gradients:
            if parameter.requires_grad != requires_grad:
                parameter.requires_grad_(requires_grad)


def changed_buffers(model: nn.Module) -> Callable[[], list[str]]:
    """A function that names the buffers that were changed in place, or replaced, since this call."""
    before = {name: (buffer, _version(buffer)) for name, buffer in model.named_buffers()}

    def changed() -> list[str]:
        now = dict(model.named_buffers())
        return [
            name
            for name, (buffer, version) in before.items()
            if now.get(name) is not buffer or _version(buffer) != version
        ]

    return changed


def _containers(model: nn.Module) -> list[Callable[[], None]]:
    undo: list[Callable[[], None]] = []
    seen: set[int] = set()
    frontier: list[Any] = list(model.modules())
    while frontier:
        item = frontier.pop()
        if isinstance(item, (Tensor, type)) or id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, dict):
            undo.append(_undo_mapping(item))
            frontier += item.values()
        elif isinstance(item, (list, deque)):
            undo.append(_undo_sequence(item))
            frontier += item
        elif isinstance(item, set):
            undo.append(_undo_set(item))
        elif isinstance(item, tuple):
            frontier += item
        elif isinstance(item, nn.Module) or (
            hasattr(item, "__dict__") and type(item).__module__.split(".")[0] not in _FOREIGN
        ):
            frontier.append(vars(item))
    return undo


def _undo_mapping(item: dict[Any, Any]) -> Callable[[], None]:
    before = dict(item)

    def undo() -> None:
        if list(item) != list(before) or any(item[key] is not before[key] for key in before):
            item.clear()
            item.update(before)

    return undo


def _undo_sequence(item: Any) -> Callable[[], None]:
    before = list(item)

    def undo() -> None:
        if len(item) != len(before) or any(a is not b for a, b in zip(item, before, strict=True)):
            item.clear()
            item.extend(before)

    return undo


def _undo_set(item: set[Any]) -> Callable[[], None]:
    before = set(item)

    def undo() -> None:
        if item != before:
            item.clear()
            item.update(before)

    return undo


def _buffers(model: nn.Module) -> list[Callable[[], None]]:
    return [_undo_buffer(buffer) for buffer in model.buffers() if not is_lazy(buffer)]


def _undo_buffer(buffer: Tensor) -> Callable[[], None]:
    before, version = buffer.detach().clone(), _version(buffer)

    def undo() -> None:
        if _version(buffer) != version:
            with torch.no_grad():
                buffer.copy_(before)

    return undo


def _version(tensor: Tensor) -> int:
    """How often a tensor was changed in place; tensors of inference mode do not count, and cannot be
    changed outside of it.
    """
    return 0 if is_lazy(tensor) or tensor.is_inference() else tensor._version
