"""The ReLU sites of a traced network, and the refusal of all that may be a ReLU and is none that can be
replaced.

Calls are found in the traced graph and never counted at run time, so one ``nn.ReLU`` object called at several
places and functional ReLUs are as many sites as there are calls.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, fx, nn
from torch.jit import ScriptModule

from circa_train.nn.tracing.errors import ConversionError
from circa_train.nn.tracing.leaves import FUSED_LAYERS, FunctionCall, operations
from circa_train.nn.tracing.names import taken_names, unused_name
from circa_train.nn.tracing.recognition import (
    ACTIVATION_MODULES,
    ACTIVATION_NAMES,
    handwritten_relu,
    is_relu,
    other_activation,
    place_of,
    short_name,
)

OTHER_ACTIVATIONS = ("refuse", "keep")

#: Operations of a compiled program that decide by a sign, or may.
_COMPILED = {
    *ACTIVATION_NAMES,
    "relu",
    "relu_",
    "gt",
    "ge",
    "lt",
    "le",
    "where",
    "sign",
    "abs",
    "masked_fill",
}
_TRUSTED_HOMES = ("torch", "_operator", "operator", "builtins", "math", "torchvision", "circa_train")


def relu_calls(
    model: nn.Module, graph: fx.Graph, other_activations: str, handwritten: str = "as told"
) -> list[tuple[str, fx.Node]]:
    """The sites of a traced network in the order of execution: (qualified name, node).

    A module's site has the module's name, a functional one its owner's name and ``relu`` (``relu_call`` if
    the owner has something else of that name); further calls under the same name get ``#2``, ``#3``, ...

    Args:
        model: the network.
        graph: its trace.
        other_activations: ``refuse`` them, or ``keep`` them as they are.
        handwritten: ``as told`` treats ReLUs that are written by hand as other activations; ``refuse``
            refuses them though others are kept.

    Raises:
        ConversionError: for another activation (unless kept), an opaque call, or if there is no ReLU at all.
    """
    if other_activations not in OTHER_ACTIVATIONS:
        raise ValueError(
            f"other_activations = {other_activations!r} is not one of {', '.join(OTHER_ACTIVATIONS)}"
        )
    modules = dict(model.named_modules(remove_duplicate=False))
    taken = taken_names(model)
    owners: dict[str, str] = {}
    calls: list[tuple[str, fx.Node]] = []
    used: set[str] = set()
    for node in graph.nodes:
        _refuse_hidden(node, modules, other_activations)
        if is_relu(node, modules):
            name = (
                str(node.target)
                if node.op == "call_module"
                else _functional_name(node, modules, taken, owners)
            )
            number, site = 1, name
            while site in used or (number > 1 and site in taken):
                number += 1
                site = f"{name}#{number}"
            used.add(site)
            calls.append((site, node))
            continue
        if other_activations == "refuse":
            what = other_activation(node, modules)
        else:
            what = handwritten_relu(node, modules, _constant(model)) if handwritten == "refuse" else None
        if what:
            raise ConversionError(
                f"{what} at {place_of(node)} is not a ReLU, and its sign test would stay exact: replace it "
                "by nn.ReLU, "
                'or pass other_activations="keep" to leave it as it is'
            )
    if not calls:
        raise ConversionError(f"{type(model).__name__} calls no ReLU; there is nothing to convert")
    return calls


def _functional_name(
    node: fx.Node, modules: dict[str, nn.Module], taken: set[str], owners: dict[str, str]
) -> str:
    owner = node.meta["owner"]
    if owner not in owners:
        name = f"{owner}.relu" if owner else "relu"
        if name in taken and not isinstance(modules.get(name), nn.ReLU):
            name = unused_name(f"{name}_call", taken.__contains__)  # the owner has something else there
        owners[owner] = name
    return owners[owner]


def _constant(model: nn.Module) -> Callable[[fx.Node], Tensor | None]:
    buffers = dict(model.named_buffers(remove_duplicate=False))

    def constant(node: fx.Node) -> Tensor | None:
        if node.op != "get_attr":
            return None
        value = node.meta.get("constant", buffers.get(str(node.target)))
        return value if isinstance(value, Tensor) else None

    return constant


def _refuse_hidden(node: fx.Node, modules: dict[str, nn.Module], other_activations: str) -> None:
    if node.op == "call_module":
        module = node.meta.get("new_module", modules.get(str(node.target)))
        if isinstance(module, FunctionCall):
            _refuse_function(node, module, other_activations)
            return
        if isinstance(module, ScriptModule):
            _refuse_compiled(node, module)
        inner = [m for m in module.modules() if m is not module] if module is not None else []
        if isinstance(module, FUSED_LAYERS) or any(
            isinstance(m, (nn.ReLU, *ACTIVATION_MODULES)) for m in inner
        ):
            raise ConversionError(
                f"{type(module).__name__} at {node.target} computes its activations inside one fused layer, "
                "where they "
                "cannot be replaced: write the layer out with nn.Linear and nn.ReLU"
            )
    elif node.op == "call_function":
        home = getattr(node.target, "__module__", None) or "torch"
        if home.split(".")[0] not in _TRUSTED_HOMES:
            raise ConversionError(
                f"{short_name(node)} at {place_of(node)} is opaque to the trace (torch.fx.wrap) and may hide "
                "a ReLU: "
                "let it be traced, or make it a module whose ReLUs are nn.ReLU"
            )


def _refuse_compiled(node: fx.Node, module: ScriptModule) -> None:
    """A scripted module may stay only if every operation in it is torch's own and decides nothing."""
    found = operations(module)
    hidden = sorted(name for name in found if name in _COMPILED or "::" in name)
    if hidden:
        raise ConversionError(
            f"{node.target} is a program of torch.jit (scripted or traced) that computes "
            f"{', '.join(hidden)}, which cannot be replaced in it: put the module in Python that it was made "
            "from in its place"
        )


def _refuse_function(node: fx.Node, module: FunctionCall, other_activations: str) -> None:
    """An autograd function may stay if its forward holds no activation, or, knowingly, another one."""
    name, inside = module.function.__name__, node.meta["inside"]
    if inside is None:
        raise ConversionError(
            f"the autograd function {name} at {place_of(node)} does not let itself be traced and may hide a "
            "ReLU: write its forward with torch's operations alone, or make it a module with nn.ReLU and "
            "a function for the rest"
        )
    for step in inside.nodes:
        hidden = short_name(step) if is_relu(step, {}) else other_activation(step, {})
        if hidden and (
            other_activations == "refuse" or is_relu(step, {}) or handwritten_relu(step, {}, lambda _: None)
        ):
            raise ConversionError(
                f"the autograd function {name} at {place_of(node)} computes {hidden}, whose sign test would "
                "stay exact: take it out of the function and use nn.ReLU, whose gradient as a site is the "
                "gate"
            )
