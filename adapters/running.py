"""What all adapters share: the folder by its reader alone, time and bytes by part, and one line of JSON."""

import json
import runpy
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np

#: circa_train/export/reader.py by itself, which needs numpy alone: as a part of the package it needs torch.
reader = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "circa_train/export/reader.py")))

#: What a folder may make an adapter say, as its last line.
REFUSALS = (reader.FolderError, NotImplementedError)


class Laps:
    """Seconds and bytes sent, put down to the part of the computation that ended."""

    def __init__(self, sent=lambda: 0):
        self.seconds, self.bytes, self.sent = Counter(), Counter(), sent
        self.last = time.perf_counter(), 0

    def end(self, part):
        now = time.perf_counter(), self.sent()
        self.seconds[part] += now[0] - self.last[0]
        self.bytes[part] += now[1] - self.last[1]
        self.last = now


def open_network(folder, images, what):
    """(manifest, tensors, vectors of so many images): of the network whose recorded logits are ``what``."""
    manifest, tensors, vectors = reader.open_folder(folder)
    if what not in vectors:
        known = ", ".join(name for name in vectors if name.startswith(("logits.", "exact.")))
        raise NotImplementedError(f"{what}: {folder} has {known}")
    return manifest, tensors, {name: value[: int(images)] for name, value in vectors.items()}


def report(runtime, parties, what, logits, wanted, manifest, seconds, sent, **more):
    """Print the record of a run; True, which is an exit status of 1, unless all logits are equal."""
    equal = (logits == wanted).reshape(len(wanted), -1).all(1)
    relus = [int(np.prod(at["shape"])) for at in manifest["layers"] if at["kind"] == "relu"]
    record = {"runtime": runtime, "parties": parties, "what": what, "equal": int(equal.sum())}
    record |= {"images": len(equal), "sign_tests": sum(relus) * len(equal), "seconds": dict(seconds)}
    print(json.dumps(record | {"bytes": dict(sent), **more}))
    return bool(not equal.all())


def main(run):
    """Run with the arguments of the command line; a refusal is its last line."""
    try:
        sys.exit(run(*sys.argv[1:]))
    except REFUSALS as error:
        sys.exit(f"{type(error).__name__}: {error}")
