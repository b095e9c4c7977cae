"""One result file -> one flat row, the line of the tidy table.

Columns of every row: ``kind, run, config_hash, finished, seconds, overrides``, the result's numbers and
names, and the whole configuration as ``config.<key>``. Rows of evaluations have fixed names
(``EVALUATION_COLUMNS``); other kinds keep the names that the job gave; ``severity`` is the field of the fault
model that says how severe it is, ``level`` its value. Which network a row is about is said by the columns of
:mod:`circa_train.runs.networks`. Lists stay out of the table: per-site figures come from ``site_rows``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from circa_train.fault import sign_test_kinds
from circa_train.runs.folder import FORMAT, flatten
from circa_train.runs.networks import network_columns, network_name, short_digest

Row = dict[str, Any]

EVALUATION_COLUMNS = (
    "model", "data", "split", "checkpoint", "network", "method", "seed", "recipe", "weights",
    "finetuned", "trained_k",
    "fault", "mode", "k", "prime", "rate", "direction", "low", "high", "severity", "level", "frac_bits",
    "accuracy", "accuracy_low", "accuracy_high", "accuracy_std", "draws", "images", "baseline_accuracy",
    "relus", "and_gates", "table_bytes",
)  # fmt: skip


def to_row(content: Mapping[str, Any], run: str | os.PathLike[str] = "") -> Row:
    """One flat row from the content of a ``result.json``.

    Raises:
        ValueError: if it is not a result of this format.
    """
    if (
        not isinstance(content, Mapping)
        or "kind" not in content
        or not isinstance(content.get("result"), Mapping)
    ):
        raise ValueError("not a result of circa_train: no 'kind' and 'result' in it")
    if content.get("format") not in range(1, FORMAT + 1):
        raise ValueError(f"format {content.get('format')!r}; this version reads formats 1 to {FORMAT}")
    row: Row = {
        "kind": content["kind"],
        "run": str(run),
        "config_hash": content.get("config_hash"),
        "finished": content.get("finished"),
        "seconds": content.get("seconds"),
        "overrides": " ".join(content.get("overrides") or []),
    }
    result = content["result"]
    if content["kind"] == "evaluate":
        row.update(_evaluation_columns(result, content.get("inputs") or {}))
    else:
        row.update(_scalars(flatten(result)))
        if result.get("checkpoint") is not None:
            weights = (content.get("inputs") or {}).get("checkpoint")
            row["network"], row["weights"] = network_name(str(result["checkpoint"])), short_digest(weights)
    row.update(
        {f"config.{key}": value for key, value in _scalars(flatten(content.get("config") or {})).items()}
    )
    return row


def _scalars(flat: Mapping[str, Any]) -> Row:
    return {key: value for key, value in flat.items() if not isinstance(value, (list, tuple, dict))}


def _evaluation_columns(result: Mapping[str, Any], inputs: Mapping[str, str]) -> Row:
    fault: Mapping[str, Any] = result["fault"]
    accuracy: Mapping[str, Any] = result["accuracy"]
    trained: Mapping[str, Any] = result.get("trained_fault") or {}
    k, known = fault.get("k"), sign_test_kinds().get(str(fault.get("kind")))
    severity = result.get("severity") or (known.severity if known is not None else None)
    level = fault.get(severity) if severity is not None else None
    frac_bits = result.get("frac_bits")
    row: Row = {
        **{key: result.get(key) for key in ("model", "data", "split", "checkpoint", "finetuned")},
        **network_columns(result, inputs),
        "trained_k": trained.get("k"),
        "fault": fault.get("kind", "per site"),
        **{key: fault.get(key) for key in ("mode", "prime", "rate", "direction", "low", "high")},
        "k": k if not isinstance(k, list) else None,
        "severity": severity,
        "level": level if not isinstance(level, list) else None,
        "frac_bits": "per-channel" if isinstance(frac_bits, Mapping) else frac_bits,
        "accuracy": accuracy["mean"],
        "accuracy_low": accuracy["low"],
        "accuracy_high": accuracy["high"],
        "accuracy_std": accuracy.get("std"),
        "draws": len(accuracy.get("draws") or ()),
        "images": accuracy.get("images"),
        "baseline_accuracy": result.get("baseline_accuracy"),
        **(result.get("cost") or {}),
    }
    return {key: row.get(key) for key in EVALUATION_COLUMNS}
