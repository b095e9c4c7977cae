"""A point of a sweep, everything included, beside the plain network alone.

A sweep starts a process, reads the checkpoint, converts the network, fits fraction bits, measures the exact
network, draws faults and writes a record for each point. What a user waits for is all of that.
"""

from __future__ import annotations

import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from circa_train.benchmark.timing import Comparison, Spread, interleaved
from circa_train.checkpoint import save_checkpoint
from circa_train.data import load_data
from circa_train.evaluation import evaluate
from circa_train.nn import build_model

#: The console command, as a module: scripts are a package of their own where they are installed.
_SCRIPT = "circa_train_scripts.evaluate"


def can_sweep() -> bool:
    """Are the scripts installed, as ``make install`` and pip do?"""
    try:
        return importlib.util.find_spec(_SCRIPT) is not None
    except ModuleNotFoundError:
        return False


def compare_sweep_point(model: str, *, images: int, points: int, pairs: int) -> Comparison:
    """Seconds of a sweep of ``points`` values of k, one fault draw each, in a process of its own; against as
    many passes of the plain network over the same images in this process.

    Raises:
        RuntimeError: if the sweep fails; the end of what it said is in the message.
    """
    data = f"synthetic:classes=10,size=32,images={images}"
    splits = load_data(data)
    arguments: dict[str, Any] = {"name": model, "num_classes": 10, "image_size": 32, "in_channels": 3}
    network = build_model(**arguments, seed=0).eval()
    described = {
        "name": data, "mean": splits.mean, "std": splits.std, "class_names": splits.class_names,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "network.pt"
        save_checkpoint(checkpoint, network, {"model": arguments, "data": described})
        ks = ",".join(str(12 + number) for number in range(points))

        def sweep() -> None:
            done = subprocess.run(
                [
                    sys.executable, "-m", _SCRIPT, "-m", f"checkpoint={checkpoint}", "fault=poszero",
                    f"fault.k={ks}", "fault.overflow=saturate", "draws.count=1", "split=train",
                    f"run.root={folder}/{time.time_ns()}", "run.progress=false", "run.device=cpu",
                ],
                cwd=folder, env=os.environ, capture_output=True, text=True,
            )  # fmt: skip
            if done.returncode:
                raise RuntimeError(f"a sweep of the benchmark failed: {(done.stdout + done.stderr)[-2000:]}")

        def plain() -> None:
            for _ in range(points):
                evaluate(network, splits.train, mean=splits.mean, std=splits.std, draws=1)

        for warm_up in (sweep, plain):
            warm_up()
        ours, theirs = interleaved((sweep, plain), pairs)
    ratio = Spread.of([a / b for a, b in zip(ours, theirs, strict=True)])
    return Comparison(
        ratio.median, ratio.low, ratio.high, statistics.median(ours), statistics.median(theirs)
    )
