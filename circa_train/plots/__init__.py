"""Figures from rows of the tidy table (``circa_train.runs.table``).

Every figure is a function ``rows -> matplotlib Figure`` without global state, which also notes what its
points are (:class:`~circa_train.plots.style.NotedFigure`); ``save_figure`` writes one as PNG, SVG and PDF
with the command that made it in its metadata; ``gallery`` draws each figure for which a collection holds
data.
"""

from __future__ import annotations

from circa_train.plots.accuracy import accuracy_vs_k, accuracy_vs_rate, accuracy_vs_severity
from circa_train.plots.answer import site_harm
from circa_train.plots.compared_bits import knees, loss_vs_compared_bits
from circa_train.plots.gallery import Gallery, gallery
from circa_train.plots.histograms import site_histograms
from circa_train.plots.law import fault_probability_curves
from circa_train.plots.pareto import accuracy_vs_bytes, accuracy_vs_seconds, pareto_front
from circa_train.plots.series import MixedExperiments, knee
from circa_train.plots.sites import site_fault_rates, site_heat_map
from circa_train.plots.style import Note, NotedFigure, save_figure
from circa_train.plots.training import training_curves

__all__ = [
    "Gallery",
    "MixedExperiments",
    "Note",
    "NotedFigure",
    "accuracy_vs_bytes",
    "accuracy_vs_k",
    "accuracy_vs_rate",
    "accuracy_vs_seconds",
    "accuracy_vs_severity",
    "fault_probability_curves",
    "gallery",
    "knee",
    "knees",
    "loss_vs_compared_bits",
    "pareto_front",
    "save_figure",
    "site_fault_rates",
    "site_harm",
    "site_heat_map",
    "site_histograms",
    "training_curves",
]
