"""Which modules a trace takes as one step, and what it may believe about them.

A trace sees the ReLUs of whatever it runs through, and none of what it takes as one step. So only torch's own
layers, exactly as torch wrote them, are single steps: not a subclass, not one whose ``forward`` was replaced,
and a layer whose weight is parametrized only if it is torch's own underneath. Everything else is run through.
What cannot be run through, a compiled program or an autograd function, is looked into another way, and
refused by name if it holds an activation or does not let itself be read.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from circa_train.nn.activation import StochasticReLU
from circa_train.nn.tracing.errors import ConversionError

#: Layers of torch's that compute activations inside.
FUSED_LAYERS = (
    nn.Transformer, nn.TransformerEncoder, nn.TransformerDecoder, nn.TransformerEncoderLayer,
    nn.TransformerDecoderLayer,
    nn.RNNBase, nn.RNNCellBase,
)  # fmt: skip


class TrainingFlag(nn.Module):
    """Stands in a traced graph for ``self.training``, so that ``train()`` and ``eval()`` still reach
    functional dropout.
    """

    def forward(self) -> bool:
        return self.training


class FunctionCall(nn.Module):
    """Stands in a traced graph for the call of an autograd function, whose own backward it keeps."""

    def __init__(self, function: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function.apply(*args, **kwargs)

    def extra_repr(self) -> str:
        return self.function.__name__


_SINGLE_STEPS = (
    StochasticReLU,
    TrainingFlag,
    FunctionCall,
    parametrize.ParametrizationList,
    torch.jit.ScriptModule,
)


def is_leaf(module: nn.Module) -> bool:
    """Whether a trace takes a module as one step."""
    if isinstance(module, _SINGLE_STEPS):
        return True
    if "forward" in vars(module):
        return False
    written = written_class(module)
    home = written.__module__
    ours = home.startswith("torch.nn.modules.") or home.startswith("torch.nn.parallel.")
    return ours and not issubclass(written, nn.Sequential)


def written_class(module: nn.Module) -> type:
    """The class that somebody wrote: parametrizing a module gives it a class of its own, made on the spot."""
    for written in type(module).__mro__:
        if written.__module__ != parametrize.__name__:
            return written
    return type(module)


def refuse_programs(model: object) -> None:
    """ConversionError for compiled programs, in which there is nothing to trace or to replace."""
    if type(model).__module__.startswith("torch.export."):
        raise ConversionError(_program("ExportedProgram", "a program of torch.export"))
    if not isinstance(model, nn.Module):
        raise TypeError(f"{type(model).__name__} is not a torch.nn.Module; there is nothing to convert")
    if isinstance(model, torch.jit.ScriptModule):
        raise ConversionError(_program(type(model).__name__, "a program of torch.jit (scripted or traced)"))
    for name, module in model.named_modules():
        if any(base.__module__.startswith("torch.export.") for base in type(module).__mro__):
            raise ConversionError(_program(name or type(module).__name__, "a program of torch.export"))


def refuse_unfinished(model: nn.Module) -> None:
    """ConversionError for a network that its first batch will change: it cannot be run and left as it was."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise ConversionError(
                f"{name} has no shape yet (a lazy layer), and running the network would give it one: run a "
                "batch through it first"
            )


def _program(name: str, kind: str) -> str:
    return (
        f"{name} is {kind}: its ReLUs are compiled in, and it does not know training from evaluation. "
        "Convert the network in Python that it was made from; the program's weights fit it: "
        "network.load_state_dict(program.state_dict())"
    )


def operations(program: torch.jit.ScriptModule) -> set[str]:
    """Names of the operations of a scripted module, those of the modules inside it included.

    An operation that is not torch's own is named with its home: ``quantized::linear_relu``.
    """
    found = re.findall(r"\b(\w+)::(\w+)", str(program.inlined_graph))
    return {name if home in ("aten", "prim") else f"{home}::{name}" for home, name in found}
