"""The table of what was run and what it cost: from the records that the adapters print, one JSON line each.

    python adapters/costs.py results/adapters/records.jsonl > results/adapters/table.md

Bytes are those that all parties sent together, per sign test; microseconds likewise, of the machine on which
the records were made. MPyC's figures are of the sign tests alone. SPU's are of its comparisons (``less``),
which is what a sign test is there: the one of an exact ReLU, or the several with which recorded masks are
emulated, shifts (``shift_right_arithmetic``) and selections included.
"""

import json
import sys

#: By runtime, the parts of a record that a sign test is made of, for exact ReLUs and with recorded masks.
PARTS = {
    "MPyC": {"exact": ("sign tests",), "logits": ("sign tests",)},
    "SPU": {"exact": ("less",), "logits": ("less", "shift_right_arithmetic", "and", "equal", "negate")},
}


def row(record):
    name, kind = record["runtime"].split()[0], record["what"].partition(".")[0]
    parts, tests = PARTS.get(name, {}).get(kind, ()), record["sign_tests"]
    costs = [sum(record[key].get(part, 0) for part in parts) / tests for key in ("bytes", "seconds")]
    sent = f"{costs[0]:.1f}" if costs[0] else "-"
    spent = f"{1e6 * costs[1]:.2f}" if costs[1] else "-"
    total = sum(v for k, v in record["seconds"].items() if k not in ("start", "all, compilation included"))
    images = record["images"]
    return [
        record["runtime"], str(record["parties"]), record["network"], record["what"],
        f"{record['equal']} of {images}", f"{total / images:.2f}",
        f"{sum(record['bytes'].values()) / images / 1e6:.2f}", sent, spent,
    ]  # fmt: skip


def table(records):
    head = [
        "runtime", "parties", "network", "vectors", "images equal", "s per image", "MB per image",
        "bytes per sign test", "us per sign test",
    ]  # fmt: skip
    lines = [head, ["---"] * len(head), *map(row, records)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        print(table([json.loads(line) for line in file]))
