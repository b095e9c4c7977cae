"""A copy of the user's network that can be taken apart: weights that are computed are written down.

Pruning, weight and spectral normalisation, in their old form (a hook before each forward) and as
parametrizations, leave a layer whose ``weight`` is a result of other tensors. The integer network needs the
result. The given network is left as it was.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm, remove_spectral_norm
from torch.nn.utils.weight_norm import WeightNorm, remove_weight_norm

from circa_train.export.layers import ExportError
from circa_train.nn.convert import with_exact_relus


def plain_copy(model: nn.Module) -> nn.Module:
    """A float32 copy of ``model`` on the CPU, in evaluation mode, with exact ReLUs and every computed weight
    as a parameter.

    Raises:
        ExportError: naming a module whose ``forward`` was replaced on the object, which no copy follows.
    """
    plain = with_exact_relus(model)
    for name, module in plain.named_modules():
        if "forward" in vars(module) and not isinstance(module, torch.jit.ScriptModule):
            raise ExportError(
                f"layer {name or '(the network)'} ({type(module).__name__}) has a forward of its own, set on "
                "the object: an export cannot follow it. Write it as a module class, or take it off first"
            )
    memo: dict[int, Any] = {}
    for module in plain.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:  # what deepcopy refuses to copy
                memo[id(value)] = value.detach().clone()
    copied = copy.deepcopy(plain, memo).cpu().float().eval()
    with torch.no_grad():
        for module in list(copied.modules()):
            _write_down(module)
    return copied


def _write_down(module: nn.Module) -> None:
    if parametrize.is_parametrized(module):
        # torch's own way back would take the property from the class, which the given network still has.
        names = [str(name) for name in module.parametrizations]  # type: ignore[union-attr]
        values = {name: getattr(module, name).detach().clone() for name in names}
        del module._modules["parametrizations"]
        module.__class__ = type(module).__mro__[1]
        for name, value in values.items():
            module.register_parameter(name, nn.Parameter(value, requires_grad=False))
    for hook in list(module._forward_pre_hooks.values()):
        if isinstance(hook, prune.BasePruningMethod):
            prune.remove(module, hook._tensor_name)
        elif isinstance(hook, WeightNorm):
            remove_weight_norm(module, hook.name)
        elif isinstance(hook, SpectralNorm):
            remove_spectral_norm(module, hook.name)
