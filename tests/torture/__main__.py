"""All attacks in the large dose, and their table: ``python -m tests.torture``, or ``make torture``.

--seed N      of everything; the table says it, and the same seed makes the same attacks
--part P      only one of kills, files, hostile, messages, signs
--scale S     so many times the large dose; 0.01 for a look
--out FOLDER  where torture.json goes: what was counted and found; not written if it is not given
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from circa_train.files import write_json
from tests.torture.files import damaged_files
from tests.torture.hostile import hostile_checkpoints
from tests.torture.kills import killed_jobs
from tests.torture.messages import damaged_messages, failing_peers
from tests.torture.signs import compared_signs
from tests.torture.tally import Tally

#: What each part does, given how much, the seed and a folder of its own.
PARTS: dict[str, tuple[tuple[int, Callable[[int, int, Path], Tally]], ...]] = {
    "kills": ((300, killed_jobs),),  # first: it forks, and the others start threads
    "files": ((2500, damaged_files),),
    "hostile": ((400, hostile_checkpoints),),
    "messages": (
        (5000, lambda count, seed, _: damaged_messages(count, seed)),
        (300, lambda count, seed, _: failing_peers(count, seed)),
    ),
    "signs": ((2_000_000, lambda count, seed, _: compared_signs(count, seed)),),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description="Attack the toolkit.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    total, begun = Tally(), time.monotonic()
    for part in [options.part] if options.part else PARTS:
        for number, (count, attack) in enumerate(PARTS[part]):
            started = time.monotonic()
            with tempfile.TemporaryDirectory(prefix="torture-") as folder:
                found = attack(max(1, round(count * options.scale)), options.seed, Path(folder))
            total += found
            attempts = sum(found.counts.values())
            seconds = time.monotonic() - started
            print(f"{part} {number + 1}/{len(PARTS[part])}: {attempts:,} in {seconds:.0f} s", file=sys.stderr)
    print(f"seed {options.seed}, scale {options.scale:g}")
    print(total.table())
    if options.out is not None:
        write_json(options.out / "torture.json", {
            "seed": options.seed,
            "scale": options.scale,
            "part": options.part,
            "seconds": round(time.monotonic() - begun),
            "python": platform.python_version(),
            "counts": dict(total.counts),
            "outcomes": dict(total.outcomes),
            "wrong": total.wrong,
            "hung": total.hung,
            "raised": total.raised,
        })  # fmt: skip
    if not total.held:
        print(total.findings())
    return not total.held


if __name__ == "__main__":
    sys.exit(main())
