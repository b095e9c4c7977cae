"""What jobs leave behind: the run folder, its metrics, and the table over many of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from circa_train.lazy import face

if TYPE_CHECKING:
    from circa_train.runs.folder import (
        FAILURE,
        LOG,
        RESULT,
        STARTED,
        RunFolder,
        config_hash,
        describe_machine,
        fingerprint,
        flatten,
        read_json,
        stored_results,
    )
    from circa_train.runs.lock import FolderInUse, owned, owner
    from circa_train.runs.metrics import build_tracker
    from circa_train.runs.networks import recipe
    from circa_train.runs.records import DIGEST, read_record, sealed
    from circa_train.runs.table import Row, collect, select, site_rows, write_csv
    from circa_train.runs.text import describe_collection, format_rows
    from circa_train.runs.tracker import Tracker
    from circa_train.runs.wandb_mirror import WandbSettings

__all__ = [
    "DIGEST",
    "FAILURE",
    "LOG",
    "RESULT",
    "STARTED",
    "FolderInUse",
    "Row",
    "RunFolder",
    "Tracker",
    "WandbSettings",
    "build_tracker",
    "collect",
    "config_hash",
    "describe_collection",
    "describe_machine",
    "fingerprint",
    "flatten",
    "format_rows",
    "owned",
    "owner",
    "read_json",
    "read_record",
    "recipe",
    "sealed",
    "select",
    "site_rows",
    "stored_results",
    "write_csv",
]

__getattr__, __dir__ = face(
    __name__,
    {
        "DIGEST": "records",
        "FAILURE": "folder",
        "FolderInUse": "lock",
        "LOG": "folder",
        "RESULT": "folder",
        "STARTED": "folder",
        "Row": "table",
        "RunFolder": "folder",
        "Tracker": "tracker",
        "WandbSettings": "wandb_mirror",
        "build_tracker": "metrics",
        "collect": "table",
        "config_hash": "folder",
        "describe_collection": "text",
        "describe_machine": "folder",
        "fingerprint": "folder",
        "flatten": "folder",
        "format_rows": "text",
        "owned": "lock",
        "owner": "lock",
        "read_json": "folder",
        "read_record": "records",
        "recipe": "networks",
        "sealed": "records",
        "select": "table",
        "site_rows": "table",
        "stored_results": "folder",
        "write_csv": "table",
    },
)
