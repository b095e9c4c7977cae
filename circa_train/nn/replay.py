"""Activation checkpointing runs a forward again in the backward pass; a site then draws what it drew before.

``torch.utils.checkpoint`` puts torch's own generators back to where they were, but knows nothing of a site's
draw. So a site that runs inside a checkpointed region leaves its address with that region, as often as it
runs, and takes it from there when the region runs again. Which region runs is read off the Python stack: what
identifies it are the objects that torch itself keeps for it between the two runs. Both kinds
(``use_reentrant`` or not) and regions inside regions work this way. Elsewhere nothing is looked up:
:func:`possible` says so in well under a microsecond.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor

_FILE = torch.utils.checkpoint.__file__
_graph_task: Any = torch._C._current_graph_task_id
_top_hooks: Any = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", lambda _: True)


def possible(training: bool) -> bool:
    """Whether a checkpointed region may be running: for the first time, or again.

    Without gradients only the reentrant kind runs, and is looked for in training alone: evaluations need not
    pay for it.
    """
    if _graph_task() != -1:
        return True
    return _top_hooks(True) is not None if torch.is_grad_enabled() else training


def address(site: Any, current: Tensor, name: str) -> Tensor:
    """Where a site draws: ``current``, noted with every region that runs for the first time, or a copy of
    what it noted in the region that runs again.

    Raises:
        RuntimeError: if it noted nothing, though the region runs again.
    """
    recording, replaying, run = _regions()
    chosen = current
    if replaying is not None:
        noted = _draws(replaying).get(id(site), [])
        positions = _positions(replaying, run)
        place = positions.get(id(site), 0)
        positions[id(site)] = place + 1
        if place >= len(noted):
            raise RuntimeError(
                f"site {name or '(unnamed)'} runs again in a backward pass (activation checkpointing), and "
                "its first run left no draw to repeat: use checkpoint(..., use_reentrant=False), which is "
                "noticed in evaluation mode, too"
            )
        chosen = noted[place].clone()
    for region in recording:
        _draws(region).setdefault(id(site), []).append(chosen.clone())
    return chosen


def _regions() -> tuple[list[Any], Any, Any]:
    """The regions that run for the first time, the innermost one that runs again (or None), and which run of
    that it is.
    """
    recording: list[Any] = []
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename == _FILE:
            names = frame.f_locals
            function = frame.f_code.co_name
            if function == "forward" and "run_function" in names:
                recording.append(names["ctx"])
            elif function == "backward" and "ctx" in names:
                return recording, names["ctx"], _graph_task()
            elif function == "unpack_hook" and "frame" in names:
                return recording, names["frame"], names.get("gid", _graph_task())
            elif getattr(names.get("gen"), "gi_frame", None) is not None:
                recording.append(names["gen"].gi_frame.f_locals["new_frame"])
        frame = frame.f_back
    return recording, None, None


def _draws(region: Any) -> dict[int, list[Tensor]]:
    """What each site (by identity) drew in a region, in the order of its runs; it lives as long as torch
    keeps the region.
    """
    if not hasattr(region, "circa_train_draws"):
        region.circa_train_draws = {}
    draws: dict[int, list[Tensor]] = region.circa_train_draws
    return draws


def _positions(region: Any, run: Any) -> dict[int, int]:
    """How many of its draws each site has repeated in this run of the region."""
    if getattr(region, "circa_train_run", (None,))[0] != run:
        region.circa_train_run = (run, {})
    positions: dict[int, int] = region.circa_train_run[1]
    return positions
