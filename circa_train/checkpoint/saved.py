"""Checkpoints: one file of tensors and plain values, and readable metadata beside it.

A checkpoint ``name.pt`` is ``torch.save`` of::

    {"format": 1, "state_dict": {...}, "metadata": {...}, "training_state": {...} | None, "sha256": "..."}

and loads with ``weights_only=True``. ``state_dict`` is the network to evaluate; ``metadata`` says how to
build it (the keyword arguments of ``build_model``) and what it was trained on, and also lies beside the file
as ``name.json``; ``training_state`` is what a resumed run needs. The digest covers every value in the file,
so damage is refused instead of computed with. It lies inside the file because two files cannot be renamed in
one step: whatever moment a process is killed at, ``name.pt`` is either the old checkpoint or the new one, and
whole.

Files from elsewhere are read just as safely (:mod:`circa_train.checkpoint.untrusted`): nothing in them is
ever executed. :mod:`circa_train.checkpoint.weights` finds the weights in them, and fits them to a network.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import circa_train
from circa_train import user_code
from circa_train.checkpoint.contents import FORMAT, digest, is_native, read_contents
from circa_train.checkpoint.untrusted import CheckpointError
from circa_train.checkpoint.weights import load_foreign_state, load_state_into
from circa_train.files import write_file, write_json
from circa_train.nn import build_model


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds; tensors are on the CPU.

    Attributes:
        state_dict: the weights and buffers of the network.
        metadata: JSON values; ``model`` are the arguments of ``build_model``, ``data`` the name,
            normalisation and classes.
        training_state: what :func:`circa_train.training.train` needs to go on, or None.
        path: where it was read.
    """

    state_dict: dict[str, Tensor]
    metadata: dict[str, Any]
    training_state: dict[str, Any] | None
    path: Path


def save_checkpoint(
    path: str | os.PathLike[str],
    model: nn.Module | Mapping[str, Tensor],
    metadata: Mapping[str, Any],
    training_state: Mapping[str, Any] | None = None,
) -> None:
    """Write ``path`` atomically and durably, then its metadata beside it as JSON. Inverse of
    :func:`load_checkpoint`.

    Args:
        path: ends in ``.pt``; its folder is made if need be.
        model: the network, or its state_dict.
        metadata: JSON values; ``format`` and ``version`` are added.
        training_state: tensors and plain containers only.

    Raises:
        TypeError: if something in ``metadata`` or ``training_state`` is neither a tensor nor a plain value.
        ValueError: if ``metadata`` holds a NaN or an infinity, which JSON cannot say.
    """
    path = Path(path)
    state = model.state_dict() if isinstance(model, nn.Module) else model
    try:
        described = json.loads(
            json.dumps({"format": FORMAT, "version": circa_train.__version__, **metadata}, allow_nan=False)
        )
    except (TypeError, ValueError) as error:
        raise type(error)(f"metadata of {path} must be plain JSON values: {error}") from error
    content = {
        "format": FORMAT,
        "state_dict": {name: _owned(value) for name, value in state.items()},
        "metadata": described,
        "training_state": _owned_tree(training_state),
    }
    content["sha256"] = digest(content)
    write_file(path, lambda file: torch.save(content, file))
    write_json(path.with_suffix(".json"), {**described, "sha256": content["sha256"]})


def load_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read what :func:`save_checkpoint` wrote, every value checked against the digest.

    Raises:
        CheckpointError: if the file is missing, damaged, unsafe, of a newer format, or not written by this
            project (then the message says how to supply what it lacks).
    """
    path = Path(path)
    content = read_contents(path)
    if not is_native(content):
        raise CheckpointError(
            f"{path} holds weights but does not say which network and data they belong to. Say so: on the "
            "command line "
            "model.name=... (with its options) and data=..., in Python "
            "circa_train.checkpoint.adopt_foreign(path, "
            "model={'name': ..., 'num_classes': ..., 'image_size': ...}, "
            "data={'name': ..., 'mean': ..., 'std': ...})"
        )
    return Checkpoint(content["state_dict"], content["metadata"], content["training_state"], path)


def load_network(
    source: str | os.PathLike[str] | Checkpoint, *, code: str | None = None, trust_code: bool = False
) -> nn.Module:
    """The plain network of a checkpoint, built from its metadata, with its weights, in evaluation mode, on
    the CPU.

    Args:
        source: the file, or what was read from it.
        code: ``python:...``, where the network of somebody's own that the checkpoint records is defined;
            naming it is what allows to import it.
        trust_code: import what the checkpoint names.

    Raises:
        CheckpointError: as :func:`load_checkpoint`, if the metadata do not build a network that fits the
            weights, or if its code is somebody's own and was neither named nor trusted.
    """
    checkpoint = source if isinstance(source, Checkpoint) else load_checkpoint(source)
    model = _build(checkpoint.metadata.get("model"), checkpoint.path, code, trust_code)
    load_state_into(model, checkpoint.state_dict, source=str(checkpoint.path))
    return model.eval()


def adopt_foreign(
    path: str | os.PathLike[str],
    *,
    model: Mapping[str, Any],
    data: Mapping[str, Any] | None = None,
    fault: Mapping[str, Any] | None = None,
    frac_bits: int | Mapping[str, Any] | None = None,
) -> Checkpoint:
    """A foreign file as a checkpoint of this project, the missing metadata supplied; for ``save_checkpoint``
    or any user.

    Args:
        path: the file, see :func:`load_foreign_state`.
        model: keyword arguments of ``build_model``, ``name`` included.
        data: ``name``, ``mean``, ``std`` and ``class_names`` of the data set.
        fault: the fault spec it was trained with, as ``SignTest.to_dict`` gives it; None for exact ReLUs.
        frac_bits: fraction bits it was trained with: a number, or by site a number or one per channel.

    Raises:
        CheckpointError: as :func:`load_foreign_state`, or if the weights do not fit the network.
    """
    path = Path(path)
    state = load_foreign_state(path)
    network = _build(model, path)
    load_state_into(network, state, source=str(path))
    metadata = {
        "format": FORMAT,
        "version": circa_train.__version__,
        "model": dict(model),
        "data": None if data is None else dict(data),
        "fault": None if fault is None else dict(fault),
        "frac_bits": frac_bits,
    }
    return Checkpoint(network.state_dict(), metadata, None, path)


def _owned(tensor: Tensor) -> Tensor:
    """On the CPU, and with no more storage than it needs: saving a view would save all of what it looks
    at.
    """
    tensor = tensor.detach().cpu()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def _owned_tree(value: Any, place: str = "training_state") -> Any:
    if isinstance(value, Tensor):
        return _owned(value)
    if isinstance(value, Mapping):
        return {key: _owned_tree(item, f"{place}[{key!r}]") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_owned_tree(item, f"{place}[{index}]") for index, item in enumerate(value))
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(
        f"{place} is a {type(value).__name__}; a checkpoint holds tensors and plain values and containers"
    )


def _build(arguments: Any, path: Path, code: str | None = None, trust_code: bool = False) -> nn.Module:
    if not isinstance(arguments, Mapping) or "name" not in arguments:
        raise CheckpointError(
            f"the metadata of {path} do not say which network it is (model = {arguments!r}); "
            "use adopt_foreign(path, model={'name': ..., ...})"
        )
    try:
        if code is not None:
            arguments = {**arguments, "name": code}
        elif user_code.is_reference(arguments["name"]):
            name = arguments["name"]
            user_code.require_named(
                {name: f"model.name={name} (in Python: code='{name}')"}, trusted=trust_code
            )
        # A seed only so that the weights, which are overwritten, are not drawn from the caller's generator.
        return build_model(**{**arguments, "seed": 0})
    except user_code.UnnamedCode as error:
        raise CheckpointError(f"{path} is not opened: {error}") from error
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"the network of {path} cannot be built from model = {dict(arguments)}: {error}"
        ) from error
