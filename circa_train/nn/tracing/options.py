"""Options of a traced forward: arguments with a plain default, at which the graph is fixed."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, fx, nn

_PLAIN = (bool, int, float, str)


def options_of(model: nn.Module) -> dict[str, Any]:
    """The defaults of a forward's options, by name."""
    return {
        name: parameter.default
        for name, parameter in inspect.signature(model.forward).parameters.items()
        if parameter.default is None or isinstance(parameter.default, _PLAIN)
    }


def check_options(graph: fx.Graph, options: dict[str, Any], network: str) -> None:
    """Give options their names back, and put a check with our words in the place of fx's."""
    for node in [node for node in graph.nodes if node.op == "placeholder"]:
        name = str(node.target).removesuffix("_1")
        if str(node.target) in options or name not in options:
            continue
        node.target = name
        for user in list(node.users):  # fx's own check: nothing else saw the stand-in
            for assertion in list(user.users):
                graph.erase_node(assertion)
            graph.erase_node(user)
        last = next(n for n in reversed(graph.nodes) if n.op == "placeholder")
        with graph.inserting_after(last):
            check = graph.call_function(option_is, (node, options[name], name, network))
        check.meta["owner"] = ""


def option_is(value: Any, expected: Any, name: str, network: str) -> None:
    """Raise if an option of a traced forward has another value than the one it was traced with."""
    same = value is expected if expected is None or isinstance(expected, bool) else value == expected
    if not same:
        given = f"a {type(value).__name__}" if isinstance(value, Tensor) else repr(value)
        raise ValueError(
            f"{network} was converted with {name}={expected!r}, its default, and its graph holds nothing "
            f"else: {name}={given} is another network. Convert that one: a module whose forward calls "
            f"the plain network with {name}={given}"
        )
