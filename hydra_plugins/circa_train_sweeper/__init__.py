"""The sweeper, in the namespace where Hydra demands its plugins to be; see
:mod:`circa_train.config.sweeper`.
"""

from __future__ import annotations

from circa_train.config.sweeper import FinishedJobsSweeper


class ResumableSweeper(FinishedJobsSweeper):
    """A sweeper that leaves finished jobs out."""
