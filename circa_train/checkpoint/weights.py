"""Weights from anywhere into a network: found in what other people's scripts wrote, their names made to fit.

Nothing is dropped in silence but the counters of tools that are no weights (:data:`BOOKKEEPING`), and nothing
is converted that would change its meaning: all of a state fits, or it is refused, the network as it was.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from circa_train.checkpoint.contents import read_contents
from circa_train.checkpoint.untrusted import CheckpointError
from circa_train.nn import translate_keys

#: Last parts of the names of entries that are no weights: torch's AveragedModel counts its updates, profilers
#: leave their sums in every module.
BOOKKEEPING = ("n_averaged", "total_ops", "total_params")

#: Where foreign training scripts keep the weights inside the file.
_NESTED = ("state_dict", "model_state_dict", "model", "net", "weights")
_WRAPPERS = ("module.", "_orig_mod.")  # DistributedDataParallel and torch.compile
_LISTED_KEYS = 8


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
    state = _find_state(read_contents(path), path)
    while state and (prefix := next((w for w in _WRAPPERS if all(key.startswith(w) for key in state)), "")):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def load_state_into(model: nn.Module, state: Mapping[str, Tensor], *, source: str = "the checkpoint") -> None:
    """Copy ``state`` into ``model``, translating other projects' names for the same layers; all of it or
    nothing.

    A prefix that all names share (``model.``, ``net.``, ``encoder.``, whatever their script called the
    network) goes, if the network's names do not have it; so do entries of :data:`BOOKKEEPING`.

    Raises:
        CheckpointError: naming missing, unexpected and misshapen keys, and weights that are complex or of
            another kind than numbers.
    """
    state = _fitted(state, model, source)
    check_fit(model.state_dict(), state, source=source)
    model.load_state_dict(dict(state))


def check_fit(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], *, source: str) -> None:
    """Nothing, if ``state`` has the names, shapes and kinds of numbers of ``expected``.

    Raises:
        CheckpointError: naming what differs.
    """
    complaints = {
        "missing": [key for key in expected if key not in state],
        "unexpected": [key for key in state if key not in expected],
        "misshapen": [
            f"{key} {tuple(value.shape)}, the network has {tuple(expected[key].shape)}"
            for key, value in state.items()
            if key in expected and value.shape != expected[key].shape
        ],
        "of another kind": [
            f"{key} {value.dtype}, the network has {expected[key].dtype}"
            for key, value in state.items()
            if key in expected and not _same_kind(key, value, expected[key])
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


def _fitted(state: Mapping[str, Tensor], model: nn.Module, source: str) -> dict[str, Tensor]:
    """The state under the network's names, as far as they can be told."""
    expected = model.state_dict()
    state = {
        key: value
        for key, value in state.items()
        if key in expected or key.rpartition(".")[2] not in BOOKKEEPING
    }
    try:
        as_it_is = fitted = translate_keys(state, model)
        while not any(key in expected for key in fitted):
            if len({key.partition(".")[0] for key in state}) != 1 or not all("." in key for key in state):
                return as_it_is  # so that the complaint has the file's own names
            state = {key.partition(".")[2]: value for key, value in state.items()}
            fitted = translate_keys(state, model)
    except ValueError as error:
        raise CheckpointError(f"{source} does not fit the network: {error}") from error
    return fitted


def _same_kind(key: str, value: Tensor, expected: Tensor) -> bool:
    """Whether copying ``value`` keeps what it means. Counters of batches, which no output depends on, may be
    kept as floats.
    """
    counter = key.endswith("num_batches_tracked") and not value.is_complex()
    return counter or (value.is_complex(), value.is_floating_point()) == (False, expected.is_floating_point())


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


def _bounded(items: Sequence[str]) -> str:
    """A list for a message, at most ``_LISTED_KEYS`` long."""
    rest = len(items) - _LISTED_KEYS
    return ", ".join(items[:_LISTED_KEYS]) + (f" and {rest} more" if rest > 0 else "")
