"""One graph for training and evaluation, of a trace in either mode."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from circa_train.nn.tracing.errors import ConversionError
from circa_train.nn.tracing.leaves import TrainingFlag
from circa_train.nn.tracing.names import unused_name
from circa_train.nn.tracing.recognition import place_of


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


def unify_modes(graph: fx.Graph, reference: fx.Graph, taken: set[str]) -> None:
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
