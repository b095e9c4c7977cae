"""What all adapters share: the folder by its reader alone, time and bytes by part, and one line of JSON."""

import json
import os
import runpy
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
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


@contextmanager
def printed(lines):
    """Collects into ``lines`` what the process prints meanwhile, compiled libraries included."""
    with tempfile.TemporaryFile() as file:
        kept = [(fd, os.dup(fd)) for fd in (1, 2)]
        try:
            for fd, _ in kept:
                os.dup2(file.fileno(), fd)
            yield
        finally:
            for fd, old in kept:
                os.dup2(old, fd)
            file.seek(0)
            lines += file.read().decode(errors="replace").splitlines()


def open_network(folder, images, what):
    """(manifest, tensors, vectors of so many images): of the network whose recorded logits are ``what``."""
    manifest, tensors, vectors = reader.open_folder(folder)
    if what not in vectors:
        known = ", ".join(name for name in vectors if name.startswith(("logits.", "exact.")))
        raise NotImplementedError(f"{what}: {folder} has {known}")
    return manifest, tensors, {name: value[: int(images)] for name, value in vectors.items()}


def described(manifest):
    """The network's name and its sign tests, each once: ``resnet8 poszero k=20``."""
    model = (manifest["provenance"].get("model") or {}).get("name", "network")
    tests = [at for at in manifest["layers"] if at["kind"] == "relu"]
    keys = ("k", "low", "high")
    words = [[at["mode"], *(f"{key}={at[key]}" for key in keys if key in at)] for at in tests]
    return ", ".join([model, *dict.fromkeys(map(" ".join, words))])


def report(runtime, parties, what, logits, wanted, manifest, seconds, sent, **more):
    """Print the record of a run; True, which is an exit status of 1, unless all logits are equal."""
    equal = (logits == wanted).reshape(len(wanted), -1).all(1)
    relus = [int(np.prod(at["shape"])) for at in manifest["layers"] if at["kind"] == "relu"]
    record = {"runtime": runtime, "parties": parties, "network": described(manifest), "what": what}
    record |= {"equal": int(equal.sum()), "images": len(equal), "sign_tests": sum(relus) * len(equal)}
    print(json.dumps(record | {"seconds": dict(seconds), "bytes": dict(sent), **more}))
    return bool(not equal.all())


def main(run):
    """Run with the arguments of the command line; a refusal is its last line."""
    try:
        sys.exit(run(*sys.argv[1:]))
    except REFUSALS as error:
        sys.exit(f"{type(error).__name__}: {error}")
