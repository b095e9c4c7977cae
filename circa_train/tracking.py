"""Trackers, under the name by which scripts ask for them: where metrics go, and how they look in Weights &
Biases. All of it lives in :mod:`circa_train.runs`.
"""

from __future__ import annotations

from circa_train.runs.metrics import JsonLinesTracker, build_tracker, read_metrics, read_summary
from circa_train.runs.tracker import Tracker, Trackers
from circa_train.runs.wandb_mirror import WandbSettings, WandbTracker

__all__ = [
    "JsonLinesTracker",
    "Tracker",
    "Trackers",
    "WandbSettings",
    "WandbTracker",
    "build_tracker",
    "read_metrics",
    "read_summary",
]
