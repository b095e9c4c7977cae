"""The graph of a network, by tracing its forward (torch.fx), with what a bare trace would drop.

The network's Python runs once on stand-ins for tensors, once in training and once in evaluation mode, and
every step on a tensor becomes a node. What a trace of torch's own loses without a word is kept or refused
here:

- hooks are not run on stand-ins; every block that is run through leaves two marks in the graph, where
  :mod:`circa_train.nn.blocks` runs them later;
- autograd functions are one step each (:mod:`circa_train.nn.tracing.functions`);
- layers made inside the forward are run through, as if their code stood there;
- options of the forward are fixed at their defaults, and a call with another value is an error;
- ``no_grad``, ``autocast`` and checkpointing inside the forward, a replaced ``forward`` of the root, and
  tensors that a trace would freeze, are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils.checkpoint import CheckpointFunction

from circa_train.nn.blocks import block_begins, block_ends
from circa_train.nn.tracing.errors import ConversionError
from circa_train.nn.tracing.functions import recorded
from circa_train.nn.tracing.leaves import FunctionCall, is_leaf, refuse_programs
from circa_train.nn.tracing.modes import unify_modes
from circa_train.nn.tracing.names import taken_names, unused_name
from circa_train.nn.tracing.options import check_options, options_of
from circa_train.nn.tracing.preserving import changed_buffers, unchanged
from circa_train.nn.tracing.recognition import place_of

_GRADIENTS = "torch.no_grad or enable_grad"
_CHECKPOINTING = "torch.utils.checkpoint or saved_tensors_hooks"


def trace(model: nn.Module) -> fx.Graph:
    """The graph of ``model``, the same for training and evaluation: flags that differ become
    :class:`~circa_train.nn.tracing.leaves.TrainingFlag` calls. The network is left as it was.

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
    unify_modes(graph, reference, {name for name, _ in model.named_modules(remove_duplicate=False)})
    return graph


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
        if m not in (self.submodule_paths or {}):
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
            if changed == _CHECKPOINTING:
                raise ConversionError(_checkpointing(self.owners[-1]))
            raise ConversionError(
                f"{place_of(node)} runs inside a block of {changed} in the forward, which a trace drops: put "
                "it around the call of the whole network instead (for a frozen part, .detach() its result or "
                "requires_grad_(False) its parameters)"
            )
        return node

    def function_call(
        self,
        function: type[torch.autograd.Function],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        inside: fx.Graph | None,
    ) -> fx.Proxy:
        """One step for the call of an autograd function."""
        owner = self.owners[-1]
        if function is CheckpointFunction:
            raise ConversionError(_checkpointing(owner))
        name = f"{owner}.{function.__name__}" if owner else function.__name__
        name = unused_name(name, self.taken.__contains__)
        self.taken.add(name)
        with torch.set_grad_enabled(self.state[_GRADIENTS]):  # torch switched them off around the forward
            proxy = self.create_proxy("call_module", name, args, kwargs)
        proxy.node.meta |= {"new_module": FunctionCall(function), "inside": inside}
        return proxy

    def _call_unregistered(self, m: nn.Module, args: Any, kwargs: Any) -> Any:
        """A layer made in the forward, or kept in a plain list: its code runs as if it stood here."""
        if isinstance(m, torch.jit.ScriptModule) or next(m.parameters(), next(m.buffers(), None)) is not None:
            raise ConversionError(
                f"{type(m).__name__} at {self.owners[-1] or 'the network'} holds parameters or code that the "
                "network does not know of: keep it in an attribute, an nn.ModuleList or an nn.ModuleDict, "
                "not in a plain list or dict, and make it in __init__"
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
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
    state = {
        _GRADIENTS: torch.is_grad_enabled(),
        "torch.inference_mode": torch.is_inference_mode_enabled(),
        _CHECKPOINTING: hooks is not None,
    }
    for device in ("cpu", "cuda"):
        enabled = torch.is_autocast_enabled(device)
        state[f"torch.autocast({device!r})"] = (
            torch.get_autocast_dtype(device) if enabled else None  # type: ignore[assignment]
        )
    return state


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    return next((name for name in before if before[name] != now[name]), "")


def _checkpointing(owner: str) -> str:
    return (
        f"the forward of {owner or 'the network'} uses {_CHECKPOINTING}, which a trace drops: switch it off "
        "in the network (memory_efficient=False, gradient_checkpointing_disable()), and checkpoint the "
        "converted one as a whole, which repeats its draws"
    )


def _trace_once(model: nn.Module) -> fx.Graph:
    if "forward" in vars(model):
        raise ConversionError(
            f"the forward of this {type(model).__name__} was replaced on the object (network.forward = ...), "
            "and a trace would see that of its class: write a class, or a module around it, with the "
            "new forward (torch.compile goes around the converted network)"
        )
    try:
        return _traced(model, proxy_buffers=True)
    except ConversionError as error:
        if error.__cause__ is None:  # a refusal of ours; anything else may come of a buffer as a stand-in
            raise
    return _traced(model, proxy_buffers=False)


def _traced(model: nn.Module, proxy_buffers: bool) -> fx.Graph:
    options = options_of(model)
    tracer = _Tracer(model, proxy_buffers)
    changed = changed_buffers(model)
    before = set(vars(model))
    try:
        with recorded(tracer.function_call):
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
    check_options(graph, options, type(model).__name__)
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
