"""Rows as text for a terminal: the table that scripts print, and what was skipped or failed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from circa_train.runs.table import Collection, Row
from circa_train.text import aligned

_LISTED = 5


def format_rows(rows: Sequence[Row]) -> str:
    """Evaluations as an aligned table, one line each, by model, mode, scale, fine-tuning and k; other kinds
    as a count.
    """
    evaluations = [row for row in rows if row["kind"] == "evaluate"]
    others = len(rows) - len(evaluations)
    lines = [
        [
            "model",
            "data",
            "fault",
            "fraction bits",
            "k or rate",
            "trained at",
            "accuracy",
            "95% interval",
            "exact",
            "draws",
            "s",
        ]
    ]
    for row in sorted(evaluations, key=_order):
        interval = f"{_percent(row['accuracy_low'])} - {_percent(row['accuracy_high'])}"
        fault = str(row["mode"] or row["fault"])
        lines.append([
            str(row["model"]), str(row["data"]), fault, _scale(row), _parameter(row), _tuning(row),
            _percent(row["accuracy"]), interval,
            _percent(row["baseline_accuracy"]), str(row["draws"]), f"{row['seconds']:.1f}",
        ])  # fmt: skip
    tail = [f"and {others} results of other kinds (in the CSV)"] if others else []
    return "\n".join([*([aligned(lines)] if evaluations else []), *tail])


def describe_collection(found: Collection) -> str:
    """How many results there are, and by name what gave none: failed jobs, unreadable files, superseded
    results.
    """
    lines = [f"{len(found.rows)} results"]
    if found.superseded:
        lines.append(
            f"{len(found.superseded)} older results of the same commands under other defaults left out, "
            f"e.g. {found.superseded[0]}"
        )
    lines += _listed("files skipped", [f"{item.path}: {item.reason}" for item in found.skipped])
    lines += _listed(
        "jobs failed",
        [
            f"{item.path} ({' '.join(item.overrides)}): {item.error}: {item.message}"
            for item in found.failures
        ],
    )
    return "\n".join(lines)


def _listed(what: str, items: Sequence[str]) -> list[str]:
    if not items:
        return []
    rest = [f"  and {len(items) - _LISTED} more"] if len(items) > _LISTED else []
    return [f"{len(items)} {what}:", *(f"  {item}" for item in items[:_LISTED]), *rest]


def _order(row: Row) -> tuple[Any, ...]:
    value = next((row.get(name) for name in ("k", "rate", "level") if row.get(name) is not None), 0)
    return (
        str(row["model"]),
        str(row["data"]),
        str(row["fault"]),
        str(row["mode"]),
        _scale(row),
        bool(row["finetuned"]),
        value,
    )


def _scale(row: Row) -> str:
    return "-" if row["frac_bits"] is None else str(row["frac_bits"])


def _parameter(row: Row) -> str:
    if row["k"] is not None:
        return str(row["k"])
    if row["rate"] is not None:
        return f"{row['rate']:g}"
    if row["low"] is not None:
        return f"[{row['low']}, {row['high']})"
    return "-" if row.get("level") is None else f"{row['severity']} = {row['level']}"


def _tuning(row: Row) -> str:
    """What the network was trained with: nothing, one k, or some other faults."""
    if not row["finetuned"]:
        return "-"
    return "faults" if row["trained_k"] is None else f"k = {row['trained_k']}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}%"
