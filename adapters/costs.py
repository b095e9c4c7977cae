"""The table of what was run and what it cost: from the records that the adapters print, one JSON line each.

    python adapters/costs.py results/adapters/records.jsonl

Bytes are those that all parties sent together, per sign test; microseconds likewise, of the machine on which
the records were made. MPyC's are of its sign tests, dealing left out; SPU's of its comparisons (``less``)
with exact ReLUs. Where recorded masks are emulated, a sign test is several comparisons, and shifts among
those of the rescalings; only the whole image is given then.
"""

import json
import sys

#: By runtime and kind of vectors, the part of a record that is its sign tests.
PARTS = {("MPyC", "exact"): "sign tests", ("MPyC", "logits"): "sign tests", ("SPU", "exact"): "less"}


def row(record):
    part = PARTS.get((record["runtime"].split()[0], record["what"].partition(".")[0]), "")
    costs = [record[key].get(part, 0) / record["sign_tests"] for key in ("bytes", "seconds")]
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
    with open(sys.argv[1]) as file:  # a runtime may print lines of its own between the records
        print(table([json.loads(line) for line in file if line.startswith("{")]))
