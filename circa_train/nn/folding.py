"""BatchNorm made part of the convolution before it: fewer passes over memory in evaluation.

In evaluation mode a BatchNorm is a scaling and a shift of each channel, and so is a part of the convolution
whose result it reads (Jacob et al., CVPR 2018, section 3.2). The product of the two is rounded once where two
results were, so the network's numbers change by rounding, and a sign test here and there with them.
:mod:`circa_train.export.fold` does the same for the integer network, where *every* BatchNorm has to go.
"""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.nn.utils.parametrize import is_parametrized

from circa_train.nn.blocks import has_hooks
from circa_train.nn.control import stochastic_relus
from circa_train.nn.mirror import ancestors
from circa_train.nn.module_tree import put_module
from circa_train.nn.tracing.errors import ConversionError
from circa_train.nn.tracing.trace import trace

#: Exactly these: a class derived from one of them may compute something else.
_CONVOLUTIONS = {nn.Conv1d: nn.BatchNorm1d, nn.Conv2d: nn.BatchNorm2d, nn.Conv3d: nn.BatchNorm3d}

#: Largest difference between outputs before and after, as a part of the largest output: 32-bit rounding of a
#: hundred layers stays below a tenth of it, a BatchNorm in the wrong place does not.
_TOLERANCE = 1e-3


def with_folded_batch_norms(model: nn.Module, example: Any = None) -> tuple[nn.Module, tuple[str, ...]]:
    """A copy of a plain network, in evaluation mode, with every BatchNorm folded that reads a convolution's
    result as the only one. Others stay, and so does everything with hooks or parametrizations.

    Args:
        model: any network that torch.fx can trace; left as it was.
        example: a small batch as the network takes it. With it the outputs of both networks are compared.

    Returns:
        (folded, names): the copy, in which an ``nn.Identity`` stands for each folded BatchNorm, and the
            qualified names of these.

    Raises:
        ConversionError: if the network has stochastic ReLUs already, if it cannot be traced or copied, or if
            the example shows another output.
    """
    if stochastic_relus(model):
        raise ConversionError("BatchNorm is folded before ReLUs become stochastic: give the plain network")
    pairs = _pairs(model, trace(model))
    try:
        folded = copy.deepcopy(model).eval()
    except RuntimeError as error:  # weights that are results of others (old weight_norm) are not copied
        raise ConversionError(f"the network cannot be copied to fold its BatchNorm: {error}") from error
    for convolution, norm in pairs:
        fused: nn.Module = fuse_conv_bn_eval(  # type: ignore[type-var]
            folded.get_submodule(convolution),
            folded.get_submodule(norm),  # type: ignore[arg-type]
        )
        put_module(folded, convolution, fused.requires_grad_(False))
        put_module(folded, norm, nn.Identity().eval())
    if example is not None:
        _compare(model, folded, example)
    return folded, tuple(norm for _, norm in pairs)


def _pairs(model: nn.Module, graph: fx.Graph) -> list[tuple[str, str]]:
    """Qualified names (convolution, BatchNorm) of what can be folded, in the order of execution."""
    modules = dict(model.named_modules(remove_duplicate=False))
    calls = [node for node in graph.nodes if node.op == "call_module" and str(node.target) in modules]
    times = Counter(id(module) for module in modules.values())  # names of a module ...
    called = Counter(id(modules[str(node.target)]) for node in calls)  # ... and calls of it by any of them
    read = {str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}

    def alone(node: fx.Node) -> bool:
        """Is its module called here only, known by one name, and read or watched by nothing else?"""
        name = str(node.target)
        module = modules[name]
        if times[id(module)] > 1 or called[id(module)] > 1 or name in read:
            return False
        return not has_hooks(module) and not is_parametrized(module)

    found = []
    for node in calls:
        norm = modules[str(node.target)]
        source = node.args[0] if len(node.args) == 1 and not node.kwargs else None
        if not isinstance(source, fx.Node) or source not in calls or len(source.users) != 1:
            continue
        convolution = modules[str(source.target)]
        fits = _CONVOLUTIONS.get(type(convolution)) is type(norm)
        names = str(source.target), str(node.target)
        between = ancestors({names[0]}) ^ ancestors({names[1]})  # blocks that end or begin between them
        watched = any(has_hooks(modules[block]) for block in between)
        if fits and norm.running_mean is not None and alone(node) and alone(source) and not watched:
            found.append(names)
    return found


def _compare(model: nn.Module, folded: nn.Module, example: Any) -> None:
    inputs = example if isinstance(example, tuple) else (example,)
    reference = copy.deepcopy(model).eval()
    with torch.no_grad():
        before, after = reference(*inputs), folded(*inputs)
    difference, size = float((before - after).abs().max()), float(before.abs().max())
    if not difference <= _TOLERANCE * max(size, 1e-6):
        raise ConversionError(
            f"with its BatchNorm folded the network gives outputs that differ by {difference:g}, of at most "
            f"{size:g}; evaluate it as it is"
        )
