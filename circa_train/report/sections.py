"""The sections of a report, each as HTML from rows of the table; empty where there is nothing to say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from circa_train.cost import paper_circuits, relu_bytes
from circa_train.fault import TruncatedSign
from circa_train.field import DEFAULT_PRIME
from circa_train.gc.protocol import AND_BYTES
from circa_train.plots.lines import fault_name
from circa_train.plots.series import group, weights_of
from circa_train.plots.words import data_title, mode_name, model_title
from circa_train.report.markup import Cell, count, escaped, mebibytes, percent, seconds, table
from circa_train.runs import Row

#: Sections of one thing each (a search, a network) that are open at first.
_OPEN = 3


def what_was_run(rows: Sequence[Row]) -> str:
    """Every job by its kind, folder and command."""
    heads = ("kind", "run", "command", "seconds")
    cells = [
        (
            Cell(row["kind"]),
            Cell(row.get("run")),
            Cell(f"scripts/{row['kind']}.py {row.get('overrides') or ''}".strip()),
            seconds(row.get("seconds")),
        )
        for row in rows
    ]
    kinds = group(rows, lambda row: row["kind"])
    counted = ", ".join(f"{len(members)} {kind}" for kind, members in kinds.items())
    total = sum(row.get("seconds") or 0 for row in rows)
    caption = f"{counted}; {total:,.0f} seconds of work in all"
    return table(heads, cells, caption=caption, name="jobs")


def evaluations(rows: Sequence[Row]) -> str:
    """The table of accuracies."""
    found = sorted((row for row in rows if row["kind"] == "evaluate"), key=_order)
    if not found:
        return ""
    heads = (
        "network", "model", "data", "split", "method", "fault", "k or level", "fraction bits", "accuracy",
        "low", "high", "exact", "lost (points)", "draws", "images", "seed", "ReLUs", "AND gates", "tables",
        "seconds",
    )  # fmt: skip
    caption = (
        "accuracy under faults, mean and 95% interval over the draws; exact: with exact ReLUs"
    )
    return table(heads, map(_evaluation, found), caption=caption, name="evaluations")


def _order(row: Row) -> tuple[Any, ...]:
    """As a reader looks for it: by network, then by sign test, then by its severity."""
    at = next((row[name] for name in ("k", "rate", "level") if row.get(name) is not None), 0)
    network = (str(row.get(name)) for name in ("data", "split", "model", "method", "network", "frac_bits"))
    return (*network, str(row.get("fault")), str(row.get("mode")), at)


def _evaluation(row: Row) -> tuple[Cell, ...]:
    at = next((row[name] for name in ("k", "rate", "level") if row.get(name) is not None), None)
    exact = row.get("baseline_accuracy")
    lost = None if exact is None else 100 * (exact - row["accuracy"])
    return (
        Cell(row.get("network")),
        Cell(model_title(row.get("model"))),
        Cell(data_title(row.get("data"))),
        Cell(row.get("split")),
        Cell(row.get("method")),
        Cell(fault_name(row)),
        Cell(at),
        Cell(row.get("frac_bits")),
        percent(row["accuracy"]),
        percent(row["accuracy_low"]),
        percent(row["accuracy_high"]),
        percent(exact),
        Cell(lost, "" if lost is None else f"{lost:.2f}"),
        Cell(row.get("draws")),
        count(row.get("images")),
        Cell(row.get("seed")),
        count(row.get("relus")),
        count(row.get("and_gates")),
        mebibytes(row.get("table_bytes")),
        seconds(row.get("seconds")),
    )


def searches(rows: Sequence[Row], allocations: Sequence[Row]) -> str:
    """What each search answered: for all sites and by site, what it saves, whether test images agree."""
    parts = []
    by_run = group(allocations, lambda row: row["run"])
    for place, row in enumerate(row for row in rows if row["kind"] == "search"):
        gates = row.get("gates")
        found = _within_budget(row) if gates is None else _of_gates(row)
        summary = f"{model_title(row.get('model'))} on {data_title(row.get('data'))}: {found}"
        heads = (
            "answer", "AND gates", "bytes", "seconds", "validation accuracy", "lost (points)",
            "test accuracy", "lost (points)", "low", "high", "verdict on test images",
        )  # fmt: skip
        answers = [("k = 0", "untruncated"), ("one k for all", "uniform"), ("the answer", "chosen")]
        if gates is not None:
            del answers[1]
        body = table(heads, [_answer(row, *each) for each in answers], caption="per image")
        sites = by_run.get(row["run"], [])
        body += _allocation(sites) if sites else ""
        parts.append(_details(summary, f"<p><code>{escaped(row['run'])}</code></p>{body}", place < _OPEN))
    return "".join(parts)


def _within_budget(row: Row) -> str:
    verdict = "confirmed" if row.get("confirmed") else "NOT confirmed"
    return (
        f"within {100 * (row.get('budget') or 0):g} points k = {row.get('k')} at every site"
        f"{', fewer gates with one k per site' if row.get('beats_uniform') else ''}; "
        f"on test images {verdict}"
    )


def _of_gates(row: Row) -> str:
    loss = row.get("chosen.test.loss.mean")
    measured = "" if loss is None else f"; on test images {100 * loss:.2f} points lost"
    return f"{row['gates']:g} AND gates per sign test, allocated by the exact law{measured}"


def _answer(row: Row, name: str, key: str) -> tuple[Cell, ...]:
    def points(value: float | None) -> Cell:
        return Cell(None if value is None else 100 * value, "" if value is None else f"{100 * value:.2f}")

    judged = {split: f"{key}.{split}" for split in ("validation", "test")}
    return (
        Cell(name),
        count(row.get(f"{key}.and_gates")),
        mebibytes(row.get(f"{key}.bytes")),
        Cell(row.get(f"{key}.seconds"), f"{row[f'{key}.seconds']:.3f}" if row.get(f"{key}.seconds") else ""),
        percent(row.get(f"{judged['validation']}.accuracy.mean")),
        points(row.get(f"{judged['validation']}.loss.mean")),
        percent(row.get(f"{judged['test']}.accuracy.mean")),
        points(row.get(f"{judged['test']}.loss.mean")),
        points(row.get(f"{judged['test']}.loss.low")),
        points(row.get(f"{judged['test']}.loss.high")),
        Cell(row.get(f"{judged['test']}.verdict")),
    )


def _allocation(rows: Sequence[Row]) -> str:
    harm = f"harm alone at k = {rows[0]['harm_k']} (nats)"
    measured = any(row.get("harm") is not None for row in rows)
    heads = ["place", "site", "ReLUs", "k", "mode", "AND gates", "expected faults"]
    heads += [harm] if measured else []

    def cells(place: int, row: Row) -> list[Cell]:
        expected, harmed = row.get("expected_faults"), row.get("harm")
        return [
            Cell(place), Cell(row["site"]), count(row["relus"]), Cell(row["k"]),
            Cell(mode_name(row.get("mode"))), count(row["and_gates"]),
            Cell(expected, "" if expected is None else f"{expected:,.1f}"),
            *([Cell(harmed, "" if harmed is None else f"{harmed:.3g}")] if measured else []),
        ]  # fmt: skip

    return table(heads, [cells(i, row) for i, row in enumerate(rows)], caption="site by site, per image")


def sites(rows: Sequence[Row]) -> str:
    """Each site of each network: its faults under every evaluation that looked, and how large its values
    are.
    """
    networks = group(rows, lambda row: (weights_of(row), str(row.get("data")), row.get("frac_bits")))
    parts = []
    for members in networks.values():
        first = members[0]
        named = f"{model_title(first.get('model'))} on {data_title(first.get('data'))}"
        parts.append(
            f"<h3>{escaped(named)} <span class=\"muted\">{escaped(first.get('network'))}, "
            f"{escaped(first.get('frac_bits'))} fraction bits</span></h3>"
        )
        for site, seen in group(members, lambda row: row["site"]).items():
            parts.append(_site(str(site), seen))
    return "".join(parts)


def _site(name: str, rows: Sequence[Row]) -> str:
    kinds = [
        (kind, direction)
        for kind in ("wrap", "truncation", "flip")
        for direction in ("zeroed", "passed")
        if any(row.get(f"{what}.{kind}_{direction}") for what in ("expected", "observed") for row in rows)
    ]
    heads = ["fault", "k or level", "sign tests"]
    for kind, direction in kinds:
        heads += [f"{kind}, {direction}: expected", "observed"]
    heads += ["low", "high", "overflows"]

    def cells(row: Row) -> list[Cell]:
        at = row.get("k") if row.get("k") is not None else row.get("level")
        found = [Cell(fault_name(row)), Cell(at), count(row.get("observed.values"))]
        for kind, direction in kinds:
            for what in ("expected", "observed"):
                value = row.get(f"{what}.{kind}_{direction}")
                found.append(Cell(value, "" if value is None else f"{value:,.1f}"))
        ends = (row.get("low"), row.get("high"))
        return [*found, *(Cell(end, "" if end is None else f"{end:.4g}") for end in ends),
                Cell(row.get("overflows"))]  # fmt: skip

    body = table(heads, map(cells, rows), caption="sign tests that err on one batch of images")
    pictured = next((row for row in rows if row.get("magnitudes.negative")), None)
    return _details(f"{name}: {rows[0].get('relus'):,} ReLUs", (_bars(pictured) if pictured else "") + body)


def _bars(row: Mapping[str, Any]) -> str:
    """Activations by bit length, negative to the left, and the band of k behind them."""
    negative, positive = row["magnitudes.negative"], row["magnitudes.positive"]
    bits, highest = len(negative), max([*negative, *positive, 1])
    bars = []
    if row.get("k") is not None:
        k = int(row["k"])
        bars.append(f'<rect class="band" x="{-k}" y="0" width="{2 * k}" height="40"/>')
    for side, counts in (("negative", negative), ("positive", positive)):
        for place, value in enumerate(counts):
            height = 38 * value / highest
            x = -place - 1 if side == "negative" else place
            if value:
                bars.append(
                    f'<rect class="{side}" x="{x + 0.05:.2f}" y="{40 - height:.2f}" width="0.9" '
                    f'height="{height:.2f}"/>'
                )
    told = f"activations by bit length, to {bits} bits: negative left, positive right; band: 2^k"
    return (
        f'<svg class="bars" viewBox="{-bits} 0 {2 * bits} 40" preserveAspectRatio="none" role="img" '
        f'aria-label="{told}">{"".join(bars)}</svg><p class="muted">{told}</p>'
    )


def costs(rows: Sequence[Row]) -> str:
    """What each network's sign tests cost per image, beside the circuits that err nowhere."""
    priced = [row for row in rows if row["kind"] == "evaluate" and row.get("relus")]
    if not priced:
        return ""
    heads = ("model", "fault", "k", "ReLUs", "AND gates", "garbled tables", "of a full ReLU's")
    lines: dict[tuple[Any, ...], tuple[Cell, ...]] = {}
    for row in priced:
        circuits = paper_circuits(TruncatedSign(k=0, prime=int(row.get("prime") or DEFAULT_PRIME)))
        full, exact = (row["relus"] * relu_bytes(circuits[letter][0], "tables") for letter in "ab")
        sizes = [("full ReLU", None, full), ("exact sign", None, exact)]
        if row.get("table_bytes"):
            sizes.append((fault_name(row), row.get("k"), row["table_bytes"]))
        model = model_title(row.get("model"))
        for fault, k, size in sizes:
            lines[model, row["relus"], fault, k, size] = (
                Cell(model), Cell(fault), Cell(k), count(row["relus"]), count(size // AND_BYTES),
                mebibytes(size), Cell(size / full, f"{size / full:.1%}"),
            )  # fmt: skip
    ordered = [lines[key] for key in sorted(lines, key=lambda key: (key[0], -key[-1]))]
    return table(heads, ordered, caption="per image, 32 bytes per AND gate", name="cost")


def others(rows: Sequence[Row]) -> str:
    """Trainings, verifications and exports, with what each came to."""
    parts = []
    shown = {
        "train": ("best_accuracy", "epochs", "training_seconds", "model", "data", "config.seed"),
        "verify": ("values", "mismatches", "model", "data", "frac_bits"),
        "export": ("accuracy.integer.mean", "accuracy.simulator.mean", "accuracy.exact", "model", "data",
                   "frac_bits", "folder"),
    }  # fmt: skip
    titles = {"train": "Trainings", "verify": "Verified against garbled circuits", "export": "Exported"}
    for kind, names in shown.items():
        found = [row for row in rows if row["kind"] == kind]
        if found:
            cells = [
                [Cell(row.get("run")), *(_named(name, row.get(name)) for name in names)] for row in found
            ]
            parts.append(f"<h3>{titles[kind]}</h3>")
            heads = ("run", *(name.removeprefix("config.").replace("_", " ") for name in names))
            parts.append(table(heads, cells, caption=f"{len(found)} of kind {kind}"))
    return "".join(parts)


def _named(name: str, value: Any) -> Cell:
    return percent(value) if "accuracy" in name else Cell(value)


def _details(summary: str, body: str, opened: bool = False) -> str:
    return f"<details{' open' if opened else ''}><summary>{escaped(summary)}</summary>{body}</details>\n"
