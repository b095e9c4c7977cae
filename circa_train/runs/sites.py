"""The table of a search's sites: how much each harms alone, and which k it got."""

from __future__ import annotations

from circa_train.runs.rows import Row
from circa_train.runs.table import Collection


def allocation_rows(collection: Collection) -> list[Row]:
    """One row per site of every search: ``site, relus, k, and_gates, expected_faults``, the ``harm`` that the
    law foretells of faults at this site alone at ``harm_k`` (a divergence of the answers, in nats; None where
    a record does not say), what the search was about (``run, model, data, mode, budget, gates``),
    and the ``uniform_k`` (None where gates were asked for).
    """
    rows: list[Row] = []
    for row, content in zip(collection.rows, collection.raw, strict=True):
        if row["kind"] != "search":
            continue
        base = {key: row.get(key) for key in ("run", "network", "model", "data", "mode", "budget", "gates")}
        base |= {"uniform_k": row.get("k"), "harm_k": None, "harm": None}
        rows.extend({**base, **site} for site in content["result"].get("allocation") or ())
    return rows
