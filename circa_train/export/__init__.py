"""Networks as a protocol runs them: BatchNorm folded, integers over Z_p, executed exactly, and written to a
folder.

The names load on first use: reading the layers of a folder needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from circa_train.lazy import face
from circa_train.rescaling import RESCALINGS, OffsetLaw, RescaleLaw, offset_law, rescale_law

if TYPE_CHECKING:
    from circa_train.export.accuracies import under_every_rescaling
    from circa_train.export.bundle import (
        Export,
        check_export,
        is_export,
        load_export,
        open_export,
        save_export,
    )
    from circa_train.export.convert import Conversion, RescalingWarning, to_integers
    from circa_train.export.fold import Fold, fold_batch_norms
    from circa_train.export.integer import IntegerNetwork, SiteSigns, Step
    from circa_train.export.layers import ExportError
    from circa_train.export.network import export_network
    from circa_train.export.quantize import Format, IntegerPlan, Scale
    from circa_train.export.ranges import RangeReport, range_report
    from circa_train.export.real import RealNetwork
    from circa_train.export.shares import Holding, holdings, round_trips

__all__ = [
    "RESCALINGS",
    "Conversion",
    "Export",
    "ExportError",
    "Fold",
    "Format",
    "Holding",
    "IntegerNetwork",
    "IntegerPlan",
    "OffsetLaw",
    "RangeReport",
    "RealNetwork",
    "RescaleLaw",
    "RescalingWarning",
    "Scale",
    "SiteSigns",
    "Step",
    "check_export",
    "export_network",
    "fold_batch_norms",
    "holdings",
    "is_export",
    "load_export",
    "offset_law",
    "open_export",
    "range_report",
    "rescale_law",
    "round_trips",
    "save_export",
    "to_integers",
    "under_every_rescaling",
]

_HOMES = {
    "Conversion": "convert",
    "Export": "bundle",
    "ExportError": "layers",
    "Fold": "fold",
    "Format": "quantize",
    "Holding": "shares",
    "IntegerNetwork": "integer",
    "IntegerPlan": "quantize",
    "RangeReport": "ranges",
    "RealNetwork": "real",
    "RescalingWarning": "convert",
    "Scale": "quantize",
    "SiteSigns": "integer",
    "Step": "integer",
    "check_export": "bundle",
    "export_network": "network",
    "fold_batch_norms": "fold",
    "holdings": "shares",
    "is_export": "bundle",
    "load_export": "bundle",
    "open_export": "bundle",
    "range_report": "ranges",
    "round_trips": "shares",
    "save_export": "bundle",
    "to_integers": "convert",
    "under_every_rescaling": "accuracies",
}
__getattr__, __dir__ = face(__name__, _HOMES)
