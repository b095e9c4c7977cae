"""The blocks of a converted network: places for parameters, submodules and hooks, at their old names.

The forward of a converted network is one flat graph, so a block in it is not called as a module is. Two steps
in the graph, where its forward began and where it ended, do what the call would have done around the forward:
they run the block's hooks, those it had before the conversion and those registered since. Without hooks they
pass on what they got.
"""

from __future__ import annotations

import copy
import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils.hooks import BackwardHook

from circa_train.nn.errors import ConversionError
from circa_train.nn.tracing import block_begins, block_ends

_TENSORS = ("_parameters", "_buffers")
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


def mirror(module: nn.Module) -> Block:
    """A block with the parameters, buffers and hooks of ``module``, and none of its submodules yet."""
    block = Block(type(module).__name__)
    for name in _TENSORS:
        setattr(block, name, dict(getattr(module, name)))
    block._non_persistent_buffers_set = set(module._non_persistent_buffers_set)
    copy_hooks(module, block)
    block.training = module.training
    return block


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
            given = hook(block, entered.args, entered.kwargs)  # type: ignore[call-arg, arg-type]
            if given is not None:
                entered.args, entered.kwargs = given  # type: ignore[misc]
        else:
            given = hook(block, entered.args)  # type: ignore[call-arg, arg-type]
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
            given = hook(block, entered.args, entered.kwargs, result)  # type: ignore[call-arg, arg-type]
        else:
            given = hook(block, entered.args, result)  # type: ignore[call-arg, arg-type]
        if given is not None:
            result = given
    if entered.backward is not None:
        result = entered.backward.setup_output_hook(result)
    _, old = block._get_backward_hooks() if block._backward_hooks else ([], [])
    for hook in old:  # of the kind before full_backward_hook: they watch the last step of the block
        if isinstance(result, Tensor) and result.grad_fn is not None:
            result.grad_fn.register_hook(lambda inputs, outputs, hook=hook: hook(block, inputs, outputs))
    return result


class Boundaries:
    """The marks of a traced graph, to be replaced by :func:`enter` and :func:`leave` once the graph is
    rewritten.

    Made before the rewriting, as it remembers where everything stood; :meth:`replaced` keeps it informed.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self._graph = graph
        self._order = {node: place for place, node in enumerate(graph.nodes)}
        self._ends = [node for node in graph.nodes if node.target is block_ends]
        self._renamed: list[tuple[fx.Node, fx.Node, int]] = []

    def paths(self) -> set[str]:
        """Qualified names of the blocks."""
        return {end.meta["begin"].meta["path"] for end in self._ends}

    def crossed(self, value: fx.Node, reader: fx.Node) -> set[str]:
        """The blocks at whose boundary a value was passed between where it was made and one that reads it."""
        first, last = self._order[value], self._order[reader]
        found = set()
        for end in self._ends:
            begin = end.meta["begin"]
            for mark, passed in ((begin, (begin.meta["args"], begin.meta["kwargs"])), (end, end.meta["result"])):
                if first < self._order[mark] < last and value in _leaves(passed):
                    found.add(begin.meta["path"])
        return found

    def replaced(self, node: fx.Node, replacement: fx.Node, input_too: fx.Node | None = None) -> None:
        """``replacement`` stands for ``node`` now; and for the ``input_too`` of ``node`` in all that comes
        later.
        """
        if input_too is not None:
            self._renamed.append((input_too, node, self._order[node]))
        self._renamed.append((node, replacement, -1))

    def insert(self, modules: dict[str, nn.Module]) -> None:
        """Put the steps in the places of the marks, inner blocks first.

        Raises:
            ConversionError: if a block of ``modules`` has hooks, and is called with what a graph cannot hold.
        """
        for end in self._ends:
            begin = end.meta["begin"]
            if not all(map(_fits, (begin.meta["args"], begin.meta["kwargs"], end.meta["result"]))):
                if has_hooks(modules[begin.meta["path"]]):
                    raise ConversionError(
                        f"the hooks of {begin.meta['path']} cannot be kept: it takes or returns an object "
                        "that is neither a tensor nor a plain value. Remove them, or register them on the "
                        "modules inside it"
                    )
                self._graph.erase_node(end)
                self._graph.erase_node(begin)
                continue
            args, kwargs = self._now((begin.meta["args"], begin.meta["kwargs"]), begin)
            result = self._now(end.meta["result"], end)
            inside = _between(begin, end)
            with self._graph.inserting_before(begin):
                block = self._graph.get_attr(begin.meta["path"])
                entered = self._graph.call_function(enter, (block, tuple(args), kwargs))
                parts = [
                    *self._parts(entered, "args", tuple(args)),
                    *self._parts(entered, "kwargs", kwargs),
                ]
            own = {}
            for leaf, part in parts:
                own[leaf] = part
                leaf.replace_all_uses_with(part, delete_user_cb=inside.__contains__)
            result = fx.node.map_arg(result, lambda leaf, own=own: own.get(leaf, leaf))
            after = _after(end)
            with self._graph.inserting_before(end):
                left = self._graph.call_function(leave, (entered, result))
                for leaf, part in self._unpacked(left, result):
                    outer = next((old for old, new in own.items() if new is leaf), leaf)
                    for old in {leaf, outer}:
                        old.replace_all_uses_with(part, delete_user_cb=after.__contains__)
                        self._renamed.append((old, part, self._order[end]))
            for node in (begin, end):
                self._graph.erase_node(node)
        self._graph.lint()

    def _now(self, value: Any, mark: fx.Node) -> Any:
        """What stands today for the nodes in ``value``, as read at ``mark``."""

        def current(node: fx.Node) -> fx.Node:
            for old, new, place in self._renamed:
                if node is old and place < self._order[mark]:
                    node = new
            return node

        return fx.node.map_arg(value, current)

    def _parts(self, entered: fx.Node, name: str, value: Any) -> list[tuple[fx.Node, fx.Node]]:
        if not _leaves(value):
            return []
        whole = self._graph.call_function(getattr, (entered, name))
        return self._unpacked(whole, value)

    def _unpacked(self, whole: fx.Node, value: Any) -> list[tuple[fx.Node, fx.Node]]:
        """(node, the step that takes its place out of ``whole``) for every node in a structure."""
        if isinstance(value, fx.Node):
            return [(value, whole)]
        found: list[tuple[fx.Node, fx.Node]] = []
        items = value.items() if isinstance(value, dict) else (
            enumerate(value) if isinstance(value, (tuple, list)) else ()
        )
        for key, item in items:
            if _leaves(item):
                part = self._graph.call_function(operator.getitem, (whole, key))
                found += self._unpacked(part, item)
        return found


def _fits(value: Any) -> bool:
    """Whether a graph can hold a structure: tensors, plain values, and tuples, lists and dicts of them."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _fits(item) for key, item in value.items())
    if type(value) in (tuple, list, fx.immutable_collections.immutable_list):
        return all(map(_fits, value))
    return value is None or isinstance(value, (fx.Node, bool, int, float, str, torch.dtype, torch.device))


def _leaves(value: Any) -> list[fx.Node]:
    found: list[fx.Node] = []
    fx.node.map_arg(value, lambda leaf: found.append(leaf) or leaf)  # type: ignore[func-returns-value]
    return found


def _between(begin: fx.Node, end: fx.Node) -> set[fx.Node]:
    found, node = set(), begin.next
    while node is not end:
        found.add(node)
        node = node.next
    return found


def _after(end: fx.Node) -> set[fx.Node]:
    found, node = set(), end.next
    while node.op != "root":
        found.add(node)
        node = node.next
    return found
