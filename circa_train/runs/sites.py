"""The table of a search's sites: how much each harms alone, and which k it got."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from circa_train.runs.records import read_record
from circa_train.runs.rows import Row
from circa_train.runs.table import Collection

#: What a search measures, by the name of its file beside the result, and by the names of the values in it.
MEASURED, _DIVERGENCES = "measured.json", re.compile(r"divergences (?:.* )?at k = ([0-9,]+)")


def allocation_rows(collection: Collection) -> list[Row]:
    """One row per site of every search: ``site, relus, k, and_gates, expected_faults``, beside what the
    search was about (``run, model, data, mode, budget``), the ``uniform_k``, and, where the search measured
    it, the ``harm`` of faults at this site alone at ``harm_k``: a divergence of the answers, in nats.
    """
    rows: list[Row] = []
    for row, content in zip(collection.rows, collection.raw, strict=True):
        if row["kind"] != "search":
            continue
        harm_k, harms = _harms(Path(row["run"]))
        base = {key: row.get(key) for key in ("run", "network", "model", "data", "mode", "budget")}
        base |= {"uniform_k": row.get("k"), "harm_k": harm_k}
        rows.extend(
            {**base, **site, "harm": harms.get(site["site"])}
            for site in content["result"].get("allocation") or ()
        )
    return rows


def _harms(folder: Path) -> tuple[int | str | None, dict[str, float]]:
    """At which k (one for all, or text for one each) all sites were tried alone, and the divergence of each;
    nothing where no sound file says.
    """
    try:
        stored: dict[str, Any] = read_record(folder / MEASURED) or {}
    except (OSError, ValueError):
        return None, {}
    for name, values in (stored.get("values") or {}).items():
        tried = _DIVERGENCES.fullmatch(name)
        if tried is not None and isinstance(values, dict):
            ks = set(filter(None, tried[1].split(",")))
            return (int(ks.pop()) if len(ks) == 1 else "one k each"), values
    return None, {}
