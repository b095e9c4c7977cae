"""Find every ReLU call of a network, by tracing its graph (torch.fx); refuse what cannot be told apart or is
no ReLU.

Calls are found in the traced graph and never counted at run time, so one ``nn.ReLU`` object called at several
places and functional ReLUs are as many sites as there are calls. The rule for everything else:

- ``nn.ReLU``, ``F.relu``, ``torch.relu``, ``Tensor.relu`` and their in-place forms are sites.
- Any other element-wise activation (ReLU6, LeakyReLU, GELU, a clamp at 0, ...) is refused by name, or left
  exact if the caller says ``other_activations="keep"``.
- What may hide a ReLU from the trace (a wrapped opaque function, a fused transformer or recurrent layer) is
  refused.
- Max pooling, softmax and arithmetic are no activations and stay as they are.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from circa_train.nn.activation import StochasticReLU
from circa_train.nn.module_tree import kept_modes

OTHER_ACTIVATIONS = ("refuse", "keep")


class ConversionError(ValueError):
    """A network cannot be converted; the message says where, why, and what to do."""


class TrainingFlag(nn.Module):
    """Stands in a traced graph for ``self.training``, so that ``train()`` and ``eval()`` still reach
    functional dropout.
    """

    def forward(self) -> bool:
        return self.training


_RELU_FUNCTIONS = {
    F.relu,
    F.relu_,
    torch.relu,
    torch.relu_,
    torch.ops.aten.relu.default,
    torch.ops.aten.relu_.default,
}
_IN_PLACE_FUNCTIONS = {F.relu_, torch.relu_, torch.ops.aten.relu_.default}

_ACTIVATION_MODULES = (
    nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Hardswish,
    nn.Hardsigmoid, nn.Hardtanh, nn.Softplus, nn.Softsign, nn.Tanh, nn.Sigmoid, nn.LogSigmoid, nn.Threshold,
    nn.Hardshrink,
    nn.Softshrink, nn.Tanhshrink, nn.GLU,
)  # fmt: skip
_ACTIVATION_NAMES = {
    "relu6", "leaky_relu", "leaky_relu_", "prelu", "rrelu", "rrelu_", "elu", "elu_", "selu", "selu_", "celu",
    "celu_",
    "gelu", "silu", "mish", "hardswish", "hardsigmoid", "hardtanh", "hardtanh_", "softplus", "softsign",
    "tanh", "tanh_",
    "sigmoid", "sigmoid_", "logsigmoid", "threshold", "threshold_", "hardshrink", "softshrink", "tanhshrink",
    "glu",
    "clamp", "clamp_", "clamp_min", "clamp_min_", "clip", "clip_", "maximum", "heaviside",
}  # fmt: skip
_FUSED_LAYERS = (
    nn.Transformer, nn.TransformerEncoder, nn.TransformerDecoder, nn.TransformerEncoderLayer,
    nn.TransformerDecoderLayer,
    nn.RNNBase, nn.RNNCellBase,
)  # fmt: skip

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


class _Tracer(fx.Tracer):
    """Records, at every node, the qualified name of the module whose forward made it."""

    def __init__(self) -> None:
        super().__init__()
        self.owners = [""]
        self.deepest: list[str] = []

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, (StochasticReLU, TrainingFlag)) or super().is_leaf_module(
            m, module_qualified_name
        )

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        self.owners.append(self.path_of_module(m))
        if len(self.owners) > len(self.deepest):
            self.deepest = list(self.owners)
        try:
            result = super().call_module(m, forward, args, kwargs)
        except Exception:
            self.deepest = list(self.owners) if not self.deepest else self.deepest
            raise
        self.deepest = []
        self.owners.pop()
        return result

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        node.meta["owner"] = self.owners[-1]
        return node


def trace(model: nn.Module) -> fx.Graph:
    """The graph of ``model``, the same for training and evaluation: flags that differ become
    :class:`TrainingFlag` calls.

    Arguments of ``forward`` that default to a plain value (an option) are fixed at it.

    Raises:
        ConversionError: if the forward cannot be traced, or changes its structure with the mode.
    """
    with kept_modes(model):
        model.train()
        graph = _trace_once(model)
        model.eval()
        reference = _trace_once(model)
    _unify_modes(graph, reference)
    return graph


def relu_calls(model: nn.Module, graph: fx.Graph, other_activations: str) -> list[tuple[str, fx.Node]]:
    """The sites of a traced network in the order of execution: (qualified name, node).

    A module's site has the module's name, a functional one its owner's name and ``relu``; further calls under
    the same name get ``#2``, ``#3``, ...

    Raises:
        ConversionError: for another activation (unless kept), an opaque call, or if there is no ReLU at all.
    """
    if other_activations not in OTHER_ACTIVATIONS:
        raise ValueError(
            f"other_activations = {other_activations!r} is not one of {', '.join(OTHER_ACTIVATIONS)}"
        )
    modules = dict(model.named_modules(remove_duplicate=False))
    calls: list[tuple[str, fx.Node]] = []
    seen: dict[str, int] = {}
    for node in graph.nodes:
        _refuse_hidden(node, modules)
        if _is_relu(node, modules):
            owner = node.meta["owner"]
            name = node.target if node.op == "call_module" else f"{owner}.relu" if owner else "relu"
            if node.op != "call_module" and name in modules and not isinstance(modules[name], nn.ReLU):
                name += "_call"  # the owner has something else under that name
            seen[name] = seen.get(name, 0) + 1
            calls.append((name if seen[name] == 1 else f"{name}#{seen[name]}", node))
        elif other_activations == "refuse" and (what := _other_activation(node, modules)):
            raise ConversionError(
                f"{what} at {_place(node)} is not a ReLU, and its sign test would stay exact: replace it by "
                "nn.ReLU, "
                'or pass other_activations="keep" to leave it as it is'
            )
    if not calls:
        raise ConversionError(f"{type(model).__name__} calls no ReLU; there is nothing to convert")
    return calls


def redirect_in_place(node: fx.Node, modules: dict[str, nn.Module]) -> None:
    """Before an in-place ReLU is replaced by one that is not: later readers of its input shall read its
    output.

    Raises:
        ConversionError: if the change was also visible through another view of the same memory.
    """
    if not _is_in_place(node, modules):
        return
    source = _input(node)
    later = set(_after(node))
    for alias in _aliases(source, modules) - {source, node}:
        if any(user in later for user in alias.users):
            raise ConversionError(
                f"the in-place ReLU at {_place(node)} also changes {alias.name}, another view of its input "
                "that is read "
                "later: use an out-of-place ReLU there (inplace=False, F.relu(x), torch.relu(x))"
            )
    source.replace_all_uses_with(node, delete_user_cb=lambda user: user in later)


def _trace_once(model: nn.Module) -> fx.Graph:
    options = {
        name: parameter.default
        for name, parameter in inspect.signature(model.forward).parameters.items()
        if parameter.default is None or isinstance(parameter.default, (bool, int, float, str))
    }
    tracer = _Tracer()
    before = set(vars(model))
    try:
        graph = tracer.trace(model, concrete_args=options or None)
    except Exception as error:  # fx lets whatever the forward raised on a proxy through
        place = tracer.deepest[-1] if tracer.deepest else ""
        owner = f"{place} ({type(model.get_submodule(place)).__name__})" if place else type(model).__name__
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConversionError(
            f"cannot trace the forward of {owner}: {reason}. ReLU calls are told apart in the traced graph, "
            "so make the "
            "forward free of control flow that depends on tensor values or shapes, or of code that is not "
            "torch's; "
            "wrappers (DataParallel, DistributedDataParallel, torch.compile) go around the converted network"
        ) from error
    finally:
        # fx leaves tensors that the forward makes (torch.zeros(1)) on the network as new attributes; the
        # nodes take them along
        made = {name: vars(model).pop(name) for name in set(vars(model)) - before}
    for node in graph.nodes:
        if node.op == "get_attr" and node.target in made:
            node.meta["constant"] = made[node.target]
    return graph


def _same_step(a: fx.Node, b: fx.Node) -> bool:
    """Do two nodes at the same place of two traces do the same?"""
    if "constant" in a.meta and "constant" in b.meta:
        if torch.equal(a.meta["constant"], b.meta["constant"]):
            return True
        raise ConversionError(
            f"{_place(a)} makes a tensor that is different every time, and a trace would freeze it: "
            "pass it in as an argument, or make it a buffer"
        )
    return (a.op, a.target) == (b.op, b.target)


def _unify_modes(graph: fx.Graph, reference: fx.Graph) -> None:
    """Replace, in the training-mode ``graph``, every argument that is True there and False in the evaluation
    graph.
    """
    nodes, others = list(graph.nodes), list(reference.nodes)
    if len(nodes) != len(others) or not all(_same_step(a, b) for a, b in zip(nodes, others, strict=True)):
        raise ConversionError(
            "the forward does different things in training and in evaluation (auxiliary heads, say), so no "
            "single graph "
            "holds its ReLUs: switch that off (aux_logits=False) or move it out of the network"
        )
    flags: dict[str, fx.Node] = {}
    for a, b in zip(nodes, others, strict=True):
        values = [(name, a.kwargs[name], b.kwargs.get(name)) for name in a.kwargs]
        values += [(place, x, y) for place, (x, y) in enumerate(zip(a.args, b.args, strict=False))]
        for place, x, y in values:
            if isinstance(x, (fx.Node, tuple, list, dict, slice)) or x == y:
                continue
            if (x, y) != (True, False):
                raise ConversionError(
                    f"argument {place!r} of {_place(a)} is {x!r} in training and {y!r} in evaluation; "
                    "only a training flag may differ"
                )
            owner = a.meta["owner"]
            if owner not in flags:
                with graph.inserting_before(nodes[0]):
                    flags[owner] = graph.call_module(f"{owner}.training_flag" if owner else "training_flag")
                    flags[owner].meta["owner"] = owner
            if isinstance(place, str):
                a.update_kwarg(place, flags[owner])
            else:
                a.update_arg(place, flags[owner])


def makes_new_memory(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether the result of a node is certainly no view of anything, and nothing that another node returned
    before.
    """
    if node.op == "call_module":
        return type(modules.get(str(node.target))) in _NEW_MEMORY_MODULES
    return node.op == "call_function" and node.target in _NEW_MEMORY_FUNCTIONS and "out" not in node.kwargs


def _is_relu(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return isinstance(modules.get(str(node.target)), (nn.ReLU, StochasticReLU))
    if node.op == "call_function":
        return node.target in _RELU_FUNCTIONS
    return node.op == "call_method" and node.target in ("relu", "relu_")


def _is_in_place(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return bool(getattr(modules[str(node.target)], "inplace", False))
    if node.op == "call_method":
        return node.target == "relu_"
    if node.target in _IN_PLACE_FUNCTIONS:
        return True
    return bool(node.kwargs.get("inplace", node.args[1] if len(node.args) > 1 else False))


def _other_activation(node: fx.Node, modules: dict[str, nn.Module]) -> str | None:
    """The name of the activation that a node computes, if it is one and not a ReLU."""
    if node.op == "call_module":
        module = modules.get(str(node.target))
        return type(module).__name__ if isinstance(module, _ACTIVATION_MODULES) else None
    name = _short_name(node)
    if node.op in ("call_function", "call_method") and name in _ACTIVATION_NAMES:
        return name
    # x * (x > 0) and torch.where(x > 0, x, 0): the comparison is the ReLU's sign test in disguise
    if name in ("gt", "ge", "lt", "le") and any(_short_name(user) in ("mul", "where") for user in node.users):
        return f"a product with the comparison {name}"
    return None


def _refuse_hidden(node: fx.Node, modules: dict[str, nn.Module]) -> None:
    if node.op == "call_module":
        module = modules.get(str(node.target))
        inner = [m for m in module.modules() if m is not module] if module is not None else []
        if isinstance(module, _FUSED_LAYERS) or any(
            isinstance(m, (nn.ReLU, *_ACTIVATION_MODULES)) for m in inner
        ):
            raise ConversionError(
                f"{type(module).__name__} at {node.target} computes its activations inside one fused layer, "
                "where they "
                "cannot be replaced: write the layer out with nn.Linear and nn.ReLU"
            )
    elif node.op == "call_function":
        home = getattr(node.target, "__module__", None) or "torch"
        if home.split(".")[0] not in (
            "torch",
            "_operator",
            "operator",
            "builtins",
            "math",
            "torchvision",
            "circa_train",
        ):
            raise ConversionError(
                f"{_short_name(node)} at {_place(node)} is opaque to the trace (torch.fx.wrap) and may hide "
                "a ReLU: "
                "let it be traced, or make it a module whose ReLUs are nn.ReLU"
            )


def _short_name(node: fx.Node) -> str:
    if node.op == "call_function":
        return getattr(node.target, "__name__", str(node.target)).split(".")[0].strip("_")
    return str(node.target)


def _place(node: fx.Node) -> str:
    return (
        str(node.target)
        if node.op == "call_module"
        else f"{node.meta.get('owner') or 'the network'} (node {node.name})"
    )


def _input(node: fx.Node) -> fx.Node:
    return node.args[0] if node.args else node.kwargs["input"]  # type: ignore[return-value]


def _after(node: fx.Node) -> Iterator[fx.Node]:
    while node.next.op != "root":
        node = node.next
        yield node


def _aliases(source: fx.Node, modules: dict[str, nn.Module]) -> set[fx.Node]:
    """All nodes that may share memory with ``source``."""

    def is_alias(node: fx.Node) -> bool:
        if node.op == "call_module":
            return type(modules.get(str(node.target))).__name__ in _ALIAS_NAMES
        return node.target is operator.getitem or _short_name(node) in _ALIAS_NAMES

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
