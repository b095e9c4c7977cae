"""The graph of a network, by tracing its forward (torch.fx), with what a bare trace would drop.

The network's Python runs once on stand-ins for tensors, once in training and once in evaluation mode, and every
step on a tensor becomes a node. What a trace of torch's own loses without a word is kept or refused here:

- hooks are not run on stand-ins; every block that is run through leaves two marks in the graph, where
  :mod:`circa_train.nn.blocks` runs them later;
- autograd functions are one step each (:mod:`circa_train.nn.functions`);
- layers made inside the forward are run through, as if their code stood there;
- options of the forward are fixed at their defaults, and a call with another value is an error;
- ``no_grad``, ``autocast`` and checkpointing inside the forward, a replaced ``forward`` of the root, and
  tensors that a trace would freeze, are refused.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from circa_train.nn.errors import ConversionError
from circa_train.nn.functions import looked_into, recorded
from circa_train.nn.leaves import FunctionCall, TrainingFlag, is_leaf, refuse_programs
from circa_train.nn.preserving import changed_buffers, unchanged
from circa_train.nn.recognition import place_of

_OPTIONS = (bool, int, float, str)


def trace(model: nn.Module) -> fx.Graph:
    """The graph of ``model``, the same for training and evaluation: flags that differ become
    :class:`TrainingFlag` calls. The network is left as it was.

    Arguments of ``forward`` that default to a plain value (an option) are fixed at it. A node's ``meta`` says
    the ``owner``, the qualified name of the module whose forward made it; ``constant``, the tensor of a
    ``get_attr`` that is no parameter or buffer; ``new_module``, the module that belongs at the target of a
    call that the network has not; ``inside``, the graph of an autograd function (None: unknown).

    Raises:
        ConversionError: if the forward cannot be traced, or changes its structure with the mode.
    """
    refuse_programs(model)
    modes = {module: module.training for module in model.modules()}
    with unchanged(model), torch.random.fork_rng(devices=[]):
        try:
            model.train()
            graph = _trace_once(model)
            model.eval()
            reference = _trace_once(model)
        finally:
            for module, training in modes.items():
                module.training = training
    _unify_modes(graph, reference, {name for name, _ in model.named_modules(remove_duplicate=False)})
    return graph


def block_begins() -> None:
    """A mark in a graph: here the forward of a block begins; ``meta`` has its ``path``, ``args``,
    ``kwargs``.
    """


def block_ends() -> None:
    """A mark in a graph: here it ends; ``meta`` has the mark of its beginning and its ``result``."""


def option_is(value: Any, expected: Any, name: str, network: str) -> None:
    """Raise if an option of a traced forward has another value than the one it was traced with."""
    same = value is expected if expected is None or isinstance(expected, bool) else value == expected
    if not same:
        raise ValueError(
            f"{network} was converted with {name}={expected!r}, its default, and its graph holds nothing "
            f"else: {name}={value!r} is another network. Convert that one: a module whose forward calls "
            f"the plain network with {name}={value!r}"
        )


def unused_name(name: str, taken: Callable[[str], bool]) -> str:
    """``name``, or the first of ``name_2``, ``name_3``, ... that is not taken."""
    number, candidate = 1, name
    while taken(candidate):
        number += 1
        candidate = f"{name}_{number}"
    return candidate


def taken_names(model: nn.Module) -> set[str]:
    """Qualified names of everything that a network holds: modules, parameters, buffers."""
    named = (model.named_modules, model.named_parameters, model.named_buffers)
    return {name for names in named for name, _ in names(remove_duplicate=False)}  # type: ignore[operator]


class _Tracer(fx.Tracer):
    """Records, at every node, the qualified name of the module whose forward made it."""

    def __init__(self, model: nn.Module, proxy_buffers: bool) -> None:
        super().__init__()
        self.proxy_buffer_attributes = proxy_buffers
        self.owners = [""]
        self.deepest: list[str] = []
        self.state = _state()
        self.taken = taken_names(model)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return is_leaf(m)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if m not in self.submodule_paths:
            return self._call_unregistered(m, args, kwargs)
        path = self.path_of_module(m)
        self.owners.append(path)
        if len(self.owners) > len(self.deepest):
            self.deepest = list(self.owners)
        try:
            if is_leaf(m):
                result = super().call_module(m, forward, args, kwargs)
            else:
                begin = self._mark(block_begins, path=path, args=args, kwargs=kwargs)
                result = super().call_module(m, m.forward, args, kwargs)  # past the hooks
                self._mark(block_ends, begin=begin, result=result)
        except Exception:
            self.deepest = list(self.owners) if not self.deepest else self.deepest
            raise
        self.deepest = []
        self.owners.pop()
        return result

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        node.meta["owner"] = self.owners[-1]
        if node.op != "output" and (changed := _difference(self.state, _state())):
            raise ConversionError(
                f"{place_of(node)} runs inside {changed} in the forward, which a trace drops: put it around "
                "the call of the whole network instead (for a frozen part, .detach() its result or "
                "requires_grad_(False) its parameters)"
            )
        return node

    def call_function(self, function: type[torch.autograd.Function], args: Any, kwargs: Any) -> fx.Proxy:
        """One step for the call of an autograd function."""
        owner = self.owners[-1]
        name = f"{owner}.{function.__name__}" if owner else function.__name__
        name = unused_name(name, self.taken.__contains__)
        self.taken.add(name)
        proxy = self.create_proxy("call_module", name, args, kwargs)
        proxy.node.meta["new_module"] = FunctionCall(function)
        proxy.node.meta["inside"] = looked_into(function, args, kwargs)
        return proxy

    def _call_unregistered(self, m: nn.Module, args: Any, kwargs: Any) -> Any:
        """A layer made in the forward, or kept in a plain list: its code runs as if it stood here."""
        if isinstance(m, torch.jit.ScriptModule) or next(m.parameters(), next(m.buffers(), None)) is not None:
            raise ConversionError(
                f"{type(m).__name__} at {self.owners[-1] or 'the network'} holds parameters or code that the "
                "network does not know of: keep it in an attribute, an nn.ModuleList or an nn.ModuleDict, not "
                "in a plain list or dict, and make it in __init__"
            )
        return m.forward(*args, **kwargs)

    def _mark(self, kind: Callable[[], None], **meta: Any) -> fx.Node:
        node = self.create_node("call_function", kind, (), {})
        for key, value in meta.items():
            node.meta[key] = fx.node.map_aggregate(
                value, lambda leaf: leaf.node if isinstance(leaf, fx.Proxy) else leaf
            )
        return node


def _state() -> dict[str, Any]:
    """What a ``with`` block may change around the steps inside it."""
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)  # type: ignore[attr-defined]
    state = {
        "torch.no_grad or enable_grad": torch.is_grad_enabled(),
        "torch.inference_mode": torch.is_inference_mode_enabled(),
        "torch.utils.checkpoint or saved_tensors_hooks": hooks is not None,
    }
    for device in ("cpu", "cuda"):
        enabled = torch.is_autocast_enabled(device)
        state[f"torch.autocast({device!r})"] = (
            torch.get_autocast_dtype(device) if enabled else None  # type: ignore[assignment]
        )
    return state


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    return next((f"a block of {name}" for name in before if before[name] != now[name]), "")


def _trace_once(model: nn.Module) -> fx.Graph:
    if "forward" in vars(model):
        raise ConversionError(
            f"the forward of this {type(model).__name__} was replaced on the object (network.forward = ...), and "
            "a trace would see that of its class: write a class, or a module around it, with the new forward"
        )
    try:
        return _traced(model, proxy_buffers=True)
    except ConversionError as error:
        if error.__cause__ is None:  # a refusal of ours; anything else may come of a buffer as a stand-in
            raise
    return _traced(model, proxy_buffers=False)


def _traced(model: nn.Module, proxy_buffers: bool) -> fx.Graph:
    options = {
        name: parameter.default
        for name, parameter in inspect.signature(model.forward).parameters.items()
        if parameter.default is None or isinstance(parameter.default, _OPTIONS)
    }
    tracer = _Tracer(model, proxy_buffers)
    changed = changed_buffers(model)
    before = set(vars(model))
    try:
        with recorded(tracer.call_function):
            graph = tracer.trace(model, concrete_args=options or None)
    except ConversionError:
        raise
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
    if names := changed():
        raise ConversionError(
            f"the forward changes the buffer {names[0]} in a way that a trace cannot repeat: change it "
            "outside of the forward, or with operations on the buffer alone (self.buffer.add_(1))"
        )
    _keep_constants(graph, model, made)
    _check_options(graph, options, type(model).__name__)
    return graph


def _keep_constants(graph: fx.Graph, model: nn.Module, made: dict[str, Any]) -> None:
    """Hand every tensor that is no parameter or buffer to the node that reads it."""
    registered = taken_names(model)
    for node in graph.nodes:
        if node.op != "get_attr" or node.target in registered:
            continue
        path, _, name = node.target.rpartition(".")
        constant = made[name] if not path and name in made else getattr(model.get_submodule(path), name)
        if isinstance(constant, Tensor) and constant.requires_grad:
            raise ConversionError(
                f"{node.target} at {place_of(node)} is a tensor with a gradient, but no parameter: it was "
                "computed elsewhere (by a hook such as torch.nn.utils.weight_norm's, say), and a trace "
                "would freeze it. Compute it in the forward, or use torch.nn.utils.parametrizations"
            )
        node.meta["constant"] = constant


def _check_options(graph: fx.Graph, options: dict[str, Any], network: str) -> None:
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


def _same_step(a: fx.Node, b: fx.Node) -> bool:
    """Do two nodes at the same place of two traces do the same?"""
    if isinstance(a.meta.get("constant"), Tensor) and isinstance(b.meta.get("constant"), Tensor):
        if torch.equal(a.meta["constant"], b.meta["constant"]):
            return True
        raise ConversionError(
            f"{place_of(a)} makes a tensor that is different every time, and a trace would freeze it: "
            "pass it in as an argument, or make it a buffer"
        )
    return (a.op, a.target) == (b.op, b.target)


def _unify_modes(graph: fx.Graph, reference: fx.Graph, taken: set[str]) -> None:
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
                    f"argument {place!r} of {place_of(a)} is {x!r} in training and {y!r} in evaluation; "
                    "only a training flag may differ"
                )
            owner = a.meta["owner"]
            if owner not in flags:
                name = unused_name(f"{owner}.training_flag" if owner else "training_flag", taken.__contains__)
                with graph.inserting_before(nodes[0]):
                    flags[owner] = graph.call_module(name)
                    flags[owner].meta |= {"owner": owner, "new_module": TrainingFlag()}
            if isinstance(place, str):
                a.update_kwarg(place, flags[owner])
            else:
                a.update_arg(place, flags[owner])
