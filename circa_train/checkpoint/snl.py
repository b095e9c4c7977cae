"""Checkpoints of SNL's own code (Cho et al., "Selective Network Linearization for Efficient Private
Inference", ICML 2022, github.com/NYU-DICE-Lab/selective_network_linearization), read as any foreign file:
nothing in them is executed.

Their ``state_dict`` holds, beside the weights, one float tensor (1, C, H, W) per ReLU layer, 1 where the ReLU
stays and 0 where it became the identity: ``layer1.0.alpha1.alphas`` is the layer that this package calls
``layer1.0.relu1``. Their ResNets have no ReLU behind the stem, so a network that is to compute the same names
it as removed: ``{"sites": ["relu"], "masks": masks}``.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from torch import Tensor

from circa_train.checkpoint.untrusted import CheckpointError
from circa_train.checkpoint.weights import load_foreign_state

_ENTRY = re.compile(r"(?P<parent>(?:.*\.)?)alpha(?P<number>\d*)\.alphas")


def load_snl(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights of an SNL checkpoint, and its masks by site: bool tensors of one image's activation, True
    keeps the ReLU.

    Raises:
        CheckpointError: as :func:`load_foreign_state`; if no mask is in it, or one is not of zeros and ones,
            as in the middle of their training.
    """
    state = load_foreign_state(path)
    weights: dict[str, Tensor] = {}
    masks: dict[str, Tensor] = {}
    for name, value in state.items():
        found = _ENTRY.fullmatch(name)
        if found is None:
            weights[name] = value
        else:
            masks[f"{found['parent']}relu{found['number']}"] = _mask(Path(path), name, value)
    if not masks:
        raise CheckpointError(
            f"{path} has no entry like layer1.0.alpha1.alphas, as SNL's code writes its masks; "
            "masks of other origin are read from .safetensors or .npz"
        )
    return weights, masks


def _mask(path: Path, name: str, value: Tensor) -> Tensor:
    if value.ndim < 2 or value.shape[0] != 1:
        raise CheckpointError(
            f"{path}: the mask {name} has the shape {tuple(value.shape)}; SNL's have (1, C, H, W)"
        )
    if not bool(((value == 0) | (value == 1)).all()):
        raise CheckpointError(
            f"{path}: the mask {name} has values other than 0 and 1, so its ReLUs are still being chosen; "
            "take the checkpoint that SNL's fine-tuning wrote"
        )
    return value[0] != 0
