"""Fold every BatchNorm of a traced network into the layer before it, and report which went where.

In evaluation mode a BatchNorm is y = g * (x - mean) / sqrt(var + eps) + b per channel, so behind a
convolution or linear layer with weights W and bias c it is the same layer with

    W' = W * r,    c' = (c - mean) * r + b,    r = g / sqrt(var + eps)   per output channel.

Where there is no such layer (it stands before the convolution, say, or its input is also read elsewhere) it
stays what it is, a scaling per channel, written as a 1x1 convolution of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from circa_train.export.layers import ExportError
from circa_train.export.plain import plain_copy
from circa_train.nn import put_module, redirect_in_place, relu_calls, trace


@dataclass(frozen=True)
class Fold:
    """A BatchNorm, and the layer that it is now part of: another one, or itself as a scaling per channel."""

    batch_norm: str
    into: str


_DROPPED_MODULES = (nn.Identity, nn.modules.dropout._DropoutNd)
_DROPPED_CALLS = {
    "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout",
}  # fmt: skip


def fold_batch_norms(model: nn.Module) -> tuple[fx.GraphModule, tuple[Fold, ...]]:
    """The network as it computes in evaluation mode, without BatchNorm, dropout and identities.

    Args:
        model: a plain or converted network; left as it was.

    Returns:
        (folded, folds): a float32 network on the CPU whose ReLU calls carry ``node.meta["site"] = (name,
            index)``,
        named and numbered as :func:`~circa_train.nn.convert.with_stochastic_relus` does; and which BatchNorm
            went
        where.

    Raises:
        ConversionError: if the network cannot be traced, holds an activation that is not a ReLU, or has no
            ReLU.
        ExportError: for a BatchNorm that can neither be folded nor written as a scaling.
    """
    model = plain_copy(model)
    graph = trace(model)
    for node in graph.nodes:
        if "new_module" in node.meta:  # a step that is no module of the network: refused later, by name
            put_module(model, str(node.target), node.meta["new_module"])
    modules = dict(model.named_modules(remove_duplicate=False))
    for index, (site, node) in enumerate(relu_calls(model, graph, "refuse")):
        redirect_in_place(node, modules)
        with graph.inserting_after(node):
            relu = graph.call_function(torch.relu, (node.args[0] if node.args else node.kwargs["input"],))
        relu.meta = {"owner": node.meta["owner"], "site": (site, index)}
        node.replace_all_uses_with(relu)
        graph.erase_node(node)
    _drop_no_operations(graph, modules)
    _name_functional_norms(graph, model)
    modules = dict(model.named_modules(remove_duplicate=False))
    norms = [(node, modules.get(str(node.target))) for node in graph.nodes if node.op == "call_module"]
    folds = tuple(_fold(node, norm, graph, model) for node, norm in norms if isinstance(norm, _BatchNorm))
    _erase_unused(graph)
    graph.lint()
    return fx.GraphModule(model, graph).eval(), folds


def _drop_no_operations(graph: fx.Graph, modules: dict[str, nn.Module]) -> None:
    for node in list(graph.nodes):
        if node.op == "call_module":
            dropped = isinstance(modules.get(str(node.target)), _DROPPED_MODULES)
        else:
            name = getattr(node.target, "__name__", str(node.target)).strip("_")
            dropped = node.op in ("call_function", "call_method") and name in _DROPPED_CALLS
        if dropped:
            node.replace_all_uses_with(node.args[0] if node.args else node.kwargs["input"])
            graph.erase_node(node)
    _erase_unused(graph)


def _name_functional_norms(graph: fx.Graph, model: nn.Module) -> None:
    """Every call of ``F.batch_norm`` becomes a call of a BatchNorm module under its owner's name."""
    for node in list(graph.nodes):
        if node.op != "call_function" or getattr(node.target, "__name__", "") != "batch_norm":
            continue
        names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
        given = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
        owner = node.meta.get("owner") or "batch_norm"
        mean, var, weight, bias = (_tensor_of(given.get(key), model, owner) for key in names[1:5])
        if mean is None or var is None:
            raise ExportError(
                f"{owner} (F.batch_norm without running statistics) depends on the batch; give it fixed ones"
            )
        name, number = f"{owner}.batch_norm", 1
        while any(other == name for other, _ in model.named_modules()):
            number += 1
            name = f"{owner}.batch_norm#{number}"
        norm = nn.BatchNorm2d(len(mean), eps=float(given.get("eps", 1e-5)), affine=True)
        norm.running_mean, norm.running_var = mean.clone(), var.clone()
        norm.weight = _parameter(torch.ones_like(mean) if weight is None else weight)
        norm.bias = _parameter(torch.zeros_like(mean) if bias is None else bias)
        put_module(model, name, norm.eval())
        with graph.inserting_after(node):
            call = graph.call_module(name, (given["input"],))
        call.meta = {"owner": owner}
        node.replace_all_uses_with(call)
        graph.erase_node(node)
    _erase_unused(graph)


def _tensor_of(argument: object, model: nn.Module, owner: str) -> Tensor | None:
    """The fixed tensor that a node's argument stands for."""
    if argument is None or isinstance(argument, Tensor):
        return argument
    if isinstance(argument, fx.Node) and argument.op == "get_attr":
        found: object = model
        for part in str(argument.target).split("."):
            found = getattr(found, part)
        if isinstance(found, Tensor):
            return found.detach()
    raise ExportError(
        f"{owner} (F.batch_norm) has statistics or weights that the network computes; only fixed tensors fold"
    )


def _erase_unused(graph: fx.Graph) -> None:
    """Remove what does not reach the output: training flags whose dropout is gone, assertions about fixed
    options.
    """
    for node in reversed(list(graph.nodes)):
        if not node.users and node.op not in ("output", "placeholder"):
            graph.erase_node(node)
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    for node in placeholders[1:]:
        if not node.users:
            graph.erase_node(node)


def _fold(node: fx.Node, norm: _BatchNorm, graph: fx.Graph, model: nn.Module) -> Fold:
    """Fold one call of ``norm``; a norm that is called twice is folded, or written as a scaling, call by
    call.
    """
    name = str(node.target)
    if norm.running_mean is None or norm.running_var is None:
        raise ExportError(
            f"{name} (BatchNorm without running statistics) depends on the batch; train with "
            "track_running_stats=True"
        )
    ratio = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        ratio = ratio * norm.weight.double()
    shift = -norm.running_mean.double() * ratio
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    source = node.args[0]
    assert isinstance(source, fx.Node)
    layer = model.get_submodule(str(source.target)) if source.op == "call_module" else None
    called_once = (
        sum(other.op == "call_module" and other.target == source.target for other in graph.nodes) == 1
    )
    if isinstance(layer, (nn.Conv2d, nn.Linear)) and called_once and len(source.users) == 1:
        with torch.no_grad():
            weight = layer.weight.double() * ratio.reshape(-1, *[1] * (layer.weight.dim() - 1))
            bias = shift if layer.bias is None else shift + layer.bias.double() * ratio
        layer.weight, layer.bias = _parameter(weight), _parameter(bias)
        node.replace_all_uses_with(source)
        graph.erase_node(node)
        return Fold(name, str(source.target))
    if not isinstance(norm, nn.BatchNorm2d):
        raise ExportError(
            f"{name} ({type(norm).__name__}) does not directly follow a linear layer that is called once and "
            "read by nothing "
            "else, so it cannot be folded; only a BatchNorm2d can stay as a scaling of its own"
        )
    scaling = nn.Conv2d(norm.num_features, norm.num_features, 1, groups=norm.num_features)
    scaling.weight, scaling.bias = _parameter(ratio.reshape(-1, 1, 1, 1)), _parameter(shift)
    put_module(model, name, scaling)
    return Fold(name, name)


def _parameter(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.float(), requires_grad=False)
