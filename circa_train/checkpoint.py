"""Checkpoints: one file of tensors and plain values, readable metadata beside it, and the files other
people's code wrote.

A checkpoint ``name.pt`` is ``torch.save`` of::

    {"format": 1, "state_dict": {...}, "metadata": {...}, "training_state": {...} | None, "sha256": "..."}

and loads with ``weights_only=True``. ``state_dict`` is the network to evaluate; ``metadata`` says how to
build it (the keyword arguments of ``build_model``) and what it was trained on, and also lies beside the file
as ``name.json``; ``training_state`` is what a resumed run needs. The digest covers every value in the file,
so damage is refused instead of computed with. It lies inside the file because two files cannot be renamed in
one step: whatever moment a process is killed at, ``name.pt`` is either the old checkpoint or the new one, and
whole.

Files from elsewhere are read just as safely: nothing in them is ever executed.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import circa_train
from circa_train import user_code
from circa_train.files import write_file, write_json
from circa_train.nn.models.registry import build_model, translate_keys

FORMAT = 1

#: Where foreign training scripts keep the weights inside the file.
_NESTED = ("state_dict", "model_state_dict", "model", "net", "weights")
_WRAPPERS = ("module.", "_orig_mod.")  # DistributedDataParallel and torch.compile
_LISTED_KEYS = 8


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, unsafe or does not fit; the message names the file and the
    remedy.
    """


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
    content = _read(path)
    if not _is_native(content):
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


def load_foreign_state(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The weights in a file that any training script may have written.

    Read are ``.safetensors`` files, plain state_dicts, and dicts that hold one as ``state_dict``,
    ``model_state_dict``, ``model``, ``net`` or ``weights``. Prefixes ``module.`` and ``_orig_mod.`` that
    every key shares are removed; other differences of naming are for :func:`load_state_into`, which knows the
    network.

    Raises:
        CheckpointError: if the file is missing, damaged, holds code instead of tensors, or no weights are
            found in it.
    """
    path = Path(path)
    state = _find_state(_read(path), path)
    while state and (prefix := next((w for w in _WRAPPERS if all(key.startswith(w) for key in state)), "")):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def adopt_foreign(
    path: str | os.PathLike[str],
    *,
    model: Mapping[str, Any],
    data: Mapping[str, Any] | None = None,
    fault: Mapping[str, Any] | None = None,
    frac_bits: int | None = None,
) -> Checkpoint:
    """A foreign file as a checkpoint of this project, the missing metadata supplied; for ``save_checkpoint``
    or any user.

    Args:
        path: the file, see :func:`load_foreign_state`.
        model: keyword arguments of ``build_model``, ``name`` included.
        data: ``name``, ``mean``, ``std`` and ``class_names`` of the data set.
        fault: the fault spec it was trained with, as ``SignTest.to_dict`` gives it; None for exact ReLUs.
        frac_bits: fraction bits it was trained with.

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


def load_state_into(model: nn.Module, state: Mapping[str, Tensor], *, source: str = "the checkpoint") -> None:
    """Copy ``state`` into ``model``, translating other projects' names for the same layers; all of it or
    nothing.

    Raises:
        CheckpointError: naming missing, unexpected and misshapen keys.
    """
    expected = model.state_dict()
    try:
        state = translate_keys(state, model)
    except ValueError as error:
        raise CheckpointError(f"{source} does not fit the network: {error}") from error
    complaints = {
        "missing": [key for key in expected if key not in state],
        "unexpected": [key for key in state if key not in expected],
        "misshapen": [
            f"{key} {tuple(value.shape)}, the network has {tuple(expected[key].shape)}"
            for key, value in state.items()
            if key in expected and value.shape != expected[key].shape
        ],
    }
    if any(complaints.values()):
        found = "; ".join(
            f"{len(keys)} {kind}: {_bounded(keys)}" for kind, keys in complaints.items() if keys
        )
        raise CheckpointError(
            f"{source} does not fit the network ({len(expected)} entries): {found}. "
            "Check model.name, its shortcut, width and reduction, and the number of classes"
        )
    model.load_state_dict(dict(state))


def digest(value: Any) -> str:
    """SHA-256 of a tree of dicts, lists, tensors and plain values: types, keys, shapes and bytes, not the
    file's layout.
    """
    sha = hashlib.sha256()
    _update(sha.update, value)
    return sha.hexdigest()


def _update(feed: Callable[[Any], None], value: Any) -> None:
    if isinstance(value, Tensor):
        feed(f"tensor {value.dtype} {tuple(value.shape)}\n".encode())
        feed(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    elif isinstance(value, Mapping):
        feed(f"dict {len(value)}\n".encode())
        for key, item in value.items():
            feed(f"{key!r}\n".encode())
            _update(feed, item)
    elif isinstance(value, (list, tuple)):
        feed(f"list {len(value)}\n".encode())
        for item in value:
            _update(feed, item)
    else:
        feed(f"{value!r}\n".encode())


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


def _read(path: Path) -> Any:
    """The contents of a file, without executing anything; a file of our own format is checked against its
    digest.
    """
    if path.is_dir():
        inside = sorted(str(file.relative_to(path)) for file in path.rglob("*.pt"))[:4]
        found = f"; in it: {', '.join(inside)}" if inside else ", and none is in it"
        raise CheckpointError(f"{path} is a folder, and a checkpoint is a file{found}")
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        with warnings.catch_warnings(action="ignore"):  # of torch about pickles that it then refuses
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if named := re.search(r"GLOBAL (\S+)", str(error)):
            raise CheckpointError(
                f"{path} is refused: unpickling it would call {named[1]}, and only tensors and plain values "
                "are read. If you "
                "trust the file, save its weights alone where it came from: torch.save(model.state_dict(), "
                "'weights.pt')"
            ) from error
        raise CheckpointError(
            f"{path} is damaged or is no checkpoint of PyTorch: it does not unpickle"
        ) from error
    except (RuntimeError, OSError) as error:  # of the zip reader and the file system, in sentences
        raise CheckpointError(
            f"{path} is damaged or is no checkpoint of PyTorch: {_first_line(error)}"
        ) from error
    # damaged bytes surface as almost any error of the pickle reader, with bare values for text
    except Exception as error:
        raise CheckpointError(
            f"{path} is damaged or is no checkpoint of PyTorch: it does not unpickle"
        ) from error
    if _is_native(content):
        if content["format"] != FORMAT:
            raise CheckpointError(
                f"{path} has format {content['format']}, this version reads {FORMAT}; update circa_train"
            )
        recorded = content.pop("sha256", None)
        if digest(content) != recorded:
            raise CheckpointError(
                f"{path} is damaged: its contents do not have the recorded SHA-256; restore it from a copy"
            )
    return content


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged or is no safetensors file: {_first_line(error)}") from error


def _is_native(content: Any) -> bool:
    return (
        isinstance(content, Mapping)
        and {"format", "state_dict", "metadata", "training_state"} <= content.keys()
    )


def _find_state(content: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(content, Mapping):
        if content and all(
            isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
        ):
            return dict(content)
        for key in _NESTED:
            if isinstance(content.get(key), Mapping):
                return _find_state(content[key], path)
        inside = (
            f"a dict with the keys {_bounded([repr(key) for key in content])}" if content else "an empty dict"
        )
    else:
        inside = f"a {type(content).__name__}"
    raise CheckpointError(f"{path} holds no weights that can be recognised: it is {inside}. "
                          f"Expected are a state_dict, or a dict with one under {', '.join(_NESTED)}")


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
                name, trusted=trust_code, how=f"model.name={name} (in Python: code='{name}')"
            )
        # A seed only so that the weights, which are overwritten, are not drawn from the caller's generator.
        return build_model(**{**arguments, "seed": 0})
    except user_code.UnnamedCode as error:
        raise CheckpointError(f"{path} is not opened: {error}") from error
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"the network of {path} cannot be built from model = {dict(arguments)}: {error}"
        ) from error


def _bounded(items: Sequence[str]) -> str:
    """A list for a message, at most ``_LISTED_KEYS`` long."""
    rest = len(items) - _LISTED_KEYS
    return ", ".join(items[:_LISTED_KEYS]) + (f" and {rest} more" if rest > 0 else "")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
