"""Calls of autograd functions while a network is traced: one step each, so that their own backward is kept.

A trace would run the function's forward on its stand-ins and see only that, and a straight-through gradient
would become that of a rounding: zero. So the call itself is recorded, as a
:class:`~circa_train.nn.tracing.leaves.FunctionCall`, and its forward is run once more in a graph to be thrown
away, to look for a ReLU in it. ``apply`` is torch's own, in C, and may have been taken from its class long
before; what it calls is the forward of the class, so that is what stands aside meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

_Function = type[torch.autograd.Function]
#: (function, its arguments, by name, the graph of its forward or None) -> what stands for its result
Record = Callable[[_Function, tuple[Any, ...], dict[str, Any], fx.Graph | None], Any]


class _Context:
    """What a forward may do with its ``ctx`` while it is only looked at."""

    def __init__(self, inputs: int) -> None:
        self.needs_input_grad = (True,) * inputs

    def save_for_backward(self, *tensors: Any) -> None:
        self.saved_tensors = tensors

    def save_for_forward(self, *tensors: Any) -> None:
        pass

    def mark_dirty(self, *tensors: Any) -> None:
        pass

    def mark_non_differentiable(self, *tensors: Any) -> None:
        pass

    def set_materialize_grads(self, value: bool) -> None:
        pass


@contextmanager
def recorded(record: Record) -> Iterator[None]:
    """While open, autograd functions that are applied to stand-ins call ``record``, not their forward."""
    undo: list[Callable[[], None]] = []
    looking: list[_Function] = []
    try:
        for function in list(_all_functions(torch.autograd.Function)):
            undo += [
                _replace(function, name, stand_aside(function, getattr(function, name), record, looking))
                for name, stand_aside in (("forward", _forward), ("setup_context", _setup))
            ]
        yield
    finally:
        for restore in reversed(undo):
            restore()


def _forward(function: _Function, forward: Any, record: Record, looking: list[_Function]) -> Any:
    separate = _is_separate(function)

    def instead(*args: Any, **kwargs: Any) -> Any:
        given = args if separate else args[1:]
        if looking or not _has_stand_ins((given, kwargs)):
            return forward(*args, **kwargs)
        looking.append(function)
        try:
            inside = _looked_into(forward, separate, given, kwargs)
        finally:
            looking.pop()
        return record(function, given, kwargs, inside)

    return instead


def _setup(function: _Function, setup: Any, record: Record, looking: list[_Function]) -> Any:
    def instead(ctx: Any, inputs: Any, output: Any) -> Any:
        return None if _has_stand_ins((inputs, output)) else setup(ctx, inputs, output)

    return instead if _is_separate(function) else setup


def _looked_into(
    forward: Callable[..., Any], separate: bool, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> fx.Graph | None:
    """The graph of a function's forward, None if it cannot be traced."""
    graph = fx.Graph()
    tracer = fx.proxy.GraphAppendingTracer(graph)
    count = 0

    def stand_in(value: Any) -> Any:
        nonlocal count
        if not isinstance(value, fx.Proxy):
            return value
        count += 1
        return fx.Proxy(graph.placeholder(f"input_{count}"), tracer)

    args, kwargs = pytree.tree_map(stand_in, (args, kwargs))
    try:
        forward(*(() if separate else (_Context(len(args)),)), *args, **kwargs)
    except Exception:  # whatever somebody's forward raises on a stand-in
        return None
    return graph


def _all_functions(base: _Function) -> Iterator[_Function]:
    for function in base.__subclasses__():
        yield function
        yield from _all_functions(function)


def _is_separate(function: _Function) -> bool:
    """Whether a function sets up its context apart from its forward, which then does not get one."""
    return function.setup_context is not torch.autograd.Function.setup_context


def _has_stand_ins(value: Any) -> bool:
    return any(isinstance(leaf, fx.Proxy) for leaf in pytree.tree_leaves(value))


def _replace(function: _Function, name: str, value: Any) -> Callable[[], None]:
    own = vars(function).get(name)
    setattr(function, name, staticmethod(value))
    return lambda: delattr(function, name) if own is None else setattr(function, name, own)
