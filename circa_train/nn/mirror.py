"""The modules of a converted network: those of the plain one where nothing changes, blocks on the way to its
sites.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from circa_train.nn.activation import StochasticReLU
from circa_train.nn.blocks import Block, copy_hooks


def _alone(module: nn.Module) -> Block:
    """A block with the parameters, buffers and hooks of ``module``, and none of its submodules yet."""
    block = Block(type(module).__name__)
    for name in ("_parameters", "_buffers"):
        setattr(block, name, dict(getattr(module, name)))
    block._non_persistent_buffers_set = set(module._non_persistent_buffers_set)
    copy_hooks(module, block)
    block.training = module.training
    return block


def ancestors(paths: set[str]) -> set[str]:
    """Every qualified name that one of ``paths`` lies below."""
    parts = [path.split(".") for path in paths]
    return {".".join(names[:depth]) for names in parts for depth in range(1, len(names))}


def mirror(module: nn.Module, leaves: set[str], blocks: set[str], path: str = "") -> nn.Module:
    """A tree of blocks with the same names, order, parameters and buffers; what the graph calls, and what
    does not lead there, is shared as it is.
    """
    block = _alone(module)
    for name, child in module._modules.items():
        full = f"{path}.{name}" if path else name
        inside = child is not None and full not in leaves and full in blocks
        block._modules[name] = mirror(child, leaves, blocks, full) if inside and child is not None else child
    return block


def attach_constant(tree: nn.Module, path: str, value: Any) -> None:
    """Put a tensor that a forward reads where the graph looks for it; it moves with the network, and is no
    part of its state.
    """
    parent, _, name = path.rpartition(".")
    owner = tree.get_submodule(parent)
    if getattr(owner, name, None) is value:
        return  # a module of the network's own, called as it is
    if isinstance(value, Tensor):
        owner.register_buffer(name, value, persistent=False)
    else:
        setattr(owner, name, value)


def like(relu: StochasticReLU, model: nn.Module) -> StochasticReLU:
    """The module on the device of the network's parameters (its buffers stay integers)."""
    parameter = next(model.parameters(), None)
    return relu if parameter is None else relu.to(parameter.device)


def adopt_state(original: nn.Module, network: nn.Module) -> None:
    """Give ``original`` the tensors and modes of ``network``, which may have been moved or cast since they
    were shared.
    """
    for name, module in network.named_modules():
        try:
            counterpart = original.get_submodule(name)
        except AttributeError:
            continue  # a site of a functional ReLU, or a training flag: the plain network has nothing there
        counterpart.training = module.training
        if counterpart is not module and not isinstance(module, StochasticReLU):
            for ours, theirs in (
                (counterpart._parameters, module._parameters),
                (counterpart._buffers, module._buffers),
            ):
                ours.update({key: value for key, value in theirs.items() if key in ours})
