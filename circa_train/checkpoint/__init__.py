"""Checkpoints: ours, and the files that other people's code wrote; nothing that is read is executed.

    saved        a network with what it takes to build and use it, written and read
    weights      weights from files of other projects, and into networks
    snl          checkpoints of SNL's own code: weights and masks
    contents     what a file holds, by its format, with its digest
    untrusted    refusals before memory is taken      pickled    what a pickle would do, read without doing it
"""

from __future__ import annotations

from circa_train.checkpoint.contents import digest
from circa_train.checkpoint.saved import (
    Checkpoint,
    adopt_foreign,
    load_checkpoint,
    load_network,
    save_checkpoint,
)
from circa_train.checkpoint.snl import load_snl
from circa_train.checkpoint.untrusted import CheckpointError
from circa_train.checkpoint.weights import load_foreign_state, load_state_into

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "adopt_foreign",
    "digest",
    "load_checkpoint",
    "load_foreign_state",
    "load_network",
    "load_snl",
    "load_state_into",
    "save_checkpoint",
]
