"""Where blocks begin and end in a traced graph, and the steps that run their hooks there."""

from __future__ import annotations

import operator
from functools import partial
from typing import Any

import torch
from torch import fx, nn

from circa_train.nn.blocks import block_ends, enter, has_hooks, leave
from circa_train.nn.tracing.errors import ConversionError


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
            for mark, passed in (
                (begin, (begin.meta["args"], begin.meta["kwargs"])),
                (end, end.meta["result"]),
            ):
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
            own: dict[fx.Node, fx.Node] = {}
            for leaf, part in parts:
                own[leaf] = part
                leaf.replace_all_uses_with(part, delete_user_cb=inside.__contains__)
            result = fx.node.map_arg(result, partial(_looked_up, own))
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
        items = (
            value.items()
            if isinstance(value, dict)
            else (enumerate(value) if isinstance(value, (tuple, list)) else ())
        )
        for key, item in items:
            if _leaves(item):
                part = self._graph.call_function(operator.getitem, (whole, key))
                found += self._unpacked(part, item)
        return found


def _looked_up(table: dict[fx.Node, fx.Node], node: fx.Node) -> fx.Node:
    return table.get(node, node)


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
