"""Figures from rows of the tidy table (``circa_train.runs.table``).

Every figure is a function ``rows -> matplotlib Figure`` without global state; ``save_figure`` writes one as
PNG and SVG with the command that made it in its metadata; ``gallery`` draws each figure for which a
collection holds data.
"""

from __future__ import annotations

from circa_train.plots.accuracy import accuracy_vs_k, accuracy_vs_rate, accuracy_vs_severity
from circa_train.plots.gallery import Gallery, gallery
from circa_train.plots.law import fault_probability_curves
from circa_train.plots.pareto import accuracy_vs_bytes, pareto_front
from circa_train.plots.series import MixedExperiments, knee
from circa_train.plots.sites import site_fault_rates, site_heat_map
from circa_train.plots.style import save_figure

__all__ = [
    "Gallery",
    "MixedExperiments",
    "accuracy_vs_bytes",
    "accuracy_vs_k",
    "accuracy_vs_rate",
    "accuracy_vs_severity",
    "fault_probability_curves",
    "gallery",
    "knee",
    "pareto_front",
    "save_figure",
    "site_fault_rates",
    "site_heat_map",
]
