"""Calls of autograd functions while a network is traced: one step each, so that their own backward is kept.

A trace would run the function's forward on its stand-ins and see only that, and a straight-through gradient
would become that of a rounding: zero. So the call itself is recorded, as a :class:`FunctionCall`, and its
forward is run once more in a graph to be thrown away, to look for a ReLU in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree


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
def recorded(record: Callable[[type[torch.autograd.Function], tuple[Any, ...], dict[str, Any]], Any]) -> (
    Iterator[None]
):
    """While open, autograd functions that are applied to stand-ins call ``record`` instead."""
    original = torch.autograd.Function.__dict__["apply"]

    def apply(function: type[torch.autograd.Function], *args: Any, **kwargs: Any) -> Any:
        if any(isinstance(leaf, fx.Proxy) for leaf in pytree.tree_leaves((args, kwargs))):
            return record(function, args, kwargs)
        return original.__get__(None, function)(*args, **kwargs)

    torch.autograd.Function.apply = classmethod(apply)  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.autograd.Function.apply = original


def looked_into(
    function: type[torch.autograd.Function], args: tuple[Any, ...], kwargs: dict[str, Any]
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
    separate = function.setup_context is not torch.autograd.function._SingleLevelFunction.setup_context
    context = () if separate else (_Context(len(args)),)
    try:
        function.forward(*context, *args, **kwargs)
    except Exception:  # whatever somebody's forward raises on a stand-in
        return None
    return graph
