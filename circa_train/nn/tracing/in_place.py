"""In-place ReLUs in a traced graph, and which results are memory of their own."""

from __future__ import annotations

import operator
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import fx, nn

from circa_train.nn.tracing.errors import ConversionError
from circa_train.nn.tracing.recognition import input_of, place_of, short_name

_IN_PLACE_FUNCTIONS = {F.relu_, torch.relu_, torch.ops.aten.relu_, torch.ops.aten.relu_.default}

#: Operations whose result shares memory with their input: an in-place ReLU behind one changes more than its
#: own tensor.
_ALIAS_NAMES = {
    "view", "reshape", "flatten", "unflatten", "transpose", "permute", "squeeze", "unsqueeze", "t", "narrow",
    "select",
    "expand", "expand_as", "view_as", "chunk", "split", "unbind", "detach", "contiguous", "getitem",
    "movedim", "swapaxes",
    "Identity", "Flatten", "Unflatten", "Dropout", "Dropout2d",
}  # fmt: skip

#: Modules and functions whose result is always memory of its own, which nothing else refers to.
_NEW_MEMORY_MODULES = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear,
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.LayerNorm,
)  # fmt: skip
_NEW_MEMORY_FUNCTIONS = (operator.add, torch.add)


def redirect_in_place(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Before an in-place ReLU is replaced by one that is not: later readers of its input shall read its
    output. Whether it is one.

    Raises:
        ConversionError: if the change was also visible through another view of the same memory.
    """
    if not _is_in_place(node, modules):
        return False
    source = input_of(node)
    later = set(_after(node))
    for alias in _aliases(source, modules) - {source, node}:
        if any(user in later for user in alias.users):
            raise ConversionError(
                f"the in-place ReLU at {place_of(node)} also changes {alias.name}, another view of its input "
                "that is read "
                "later: use an out-of-place ReLU there (inplace=False, F.relu(x), torch.relu(x))"
            )
    source.replace_all_uses_with(node, delete_user_cb=lambda user: user in later)
    return True


def makes_new_memory(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether the result of a node is certainly no view of anything, and nothing that another node returned
    before.
    """
    if node.op == "call_module":
        return type(modules.get(str(node.target))) in _NEW_MEMORY_MODULES
    return node.op == "call_function" and node.target in _NEW_MEMORY_FUNCTIONS and "out" not in node.kwargs


def _is_in_place(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return bool(getattr(modules[str(node.target)], "inplace", False))
    if node.op == "call_method":
        return node.target == "relu_"
    if node.target in _IN_PLACE_FUNCTIONS:
        return True
    return bool(node.kwargs.get("inplace", node.args[1] if len(node.args) > 1 else False))


def _after(node: fx.Node) -> Iterator[fx.Node]:
    while node.next.op != "root":
        node = node.next
        yield node


def _aliases(source: fx.Node, modules: dict[str, nn.Module]) -> set[fx.Node]:
    """All nodes that may share memory with ``source``."""

    def is_alias(node: fx.Node) -> bool:
        if node.op == "call_module":
            return type(modules.get(str(node.target))).__name__ in _ALIAS_NAMES
        return node.target is operator.getitem or short_name(node) in _ALIAS_NAMES

    found, frontier = {source}, [source]
    while frontier:
        node = frontier.pop()
        neighbours = [user for user in node.users if is_alias(user)]
        neighbours += list(node.all_input_nodes[:1]) if is_alias(node) else []
        for neighbour in neighbours:
            if neighbour not in found:
                found.add(neighbour)
                frontier.append(neighbour)
    return found
