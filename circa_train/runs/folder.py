"""Run folders: what a job asked for, what came of it, and whether it has to run again.

Every job owns one folder::

    config.yaml       the resolved configuration, written first
    started.json      the fingerprint of what was started, and the machine
    metrics.jsonl     one JSON object per line, as the job goes on
    job.log           its log, tracebacks included
    result.json       written last and atomically: a folder with a result is a finished job
    failure.json      instead of a result, if the job failed: error type, message, and what was asked
    .lock             held by the process that works here (:mod:`circa_train.runs.lock`)

The folder's name ends in the *config hash*: of everything that can change the result, and of nothing else
(see ``RESULT_NEUTRAL``). So one question has one folder, a sweep may be widened or started again, and only
what is missing runs. The hash names a checkpoint by its path; the *fingerprint* adds the contents of the
files that the job reads, so a result on an overwritten checkpoint counts as stale, and :func:`changes` says
what differs. A result also counts no more if its own bytes, the files that the job made, or the data that it
saw are not what they were (:mod:`circa_train.runs.records`); :meth:`RunFolder.stale` says which.

This module needs neither torch nor Hydra.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from circa_train.files import read_json, write_json, write_text
from circa_train.runs.lock import LOCK
from circa_train.runs.records import changed_files, describe_files, next_number, read_record, sealed

#: Of result.json; format 1 had neither a digest, nor a number, nor files.
FORMAT = 2
CONFIG, STARTED, RESULT, FAILURE = "config.yaml", "started.json", "result.json", "failure.json"
LOG = "job.log"

#: Keys (a dotted name stands for its whole subtree) that say where and how a job runs, not what it computes.
RESULT_NEUTRAL = ("run", "tracker", "data.root", "data.download")

#: 40 bits: among a million runs two share a name with probability below one half, and then the fingerprint
#: tells them apart.
_HASH_DIGITS = 10


def identity(config: Mapping[str, Any], neutral: tuple[str, ...] = RESULT_NEUTRAL) -> dict[str, Any]:
    """The part of a resolved configuration that can change the result, as ``{dotted key: value}``."""
    flat = flatten(config)
    return {
        key: flat[key]
        for key in sorted(flat)
        if not any(key == n or key.startswith(f"{n}.") for n in neutral)
    }


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys; lists and empty mappings are values.

    >>> flatten({"fault": {"k": 12}, "seed": 0})
    {'fault.k': 12, 'seed': 0}
    """
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{name}."))
        else:
            flat[name] = value
    return flat


def config_hash(config: Mapping[str, Any]) -> str:
    """Ten hexadecimal digits that name the question a resolved configuration asks."""
    return _sha256(identity(config))[:_HASH_DIGITS]


def fingerprint(config: Mapping[str, Any], inputs: Mapping[str, str] | None = None) -> str:
    """The question together with the contents it is asked of: ``inputs`` maps a key to a
    :func:`~circa_train.files.file_digest`.
    """
    return _sha256({"config": identity(config), "inputs": dict(inputs or {})})


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two configurations' identities, one ``key: old -> new`` each."""
    before, after = identity(old), identity(new)
    absent = "(not there)"
    return [
        f"{key}: {before.get(key, absent)} -> {after.get(key, absent)}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key, absent) != after.get(key, absent)
    ]


def describe_machine() -> dict[str, Any]:
    """What a reader of a timing needs to know of the machine; versions come from metadata, nothing is
    imported.
    """
    machine: dict[str, Any] = {
        "host": socket.gethostname(),
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    for package in ("torch", "numpy", "circa_train"):
        try:
            machine[package] = version(package)
        except PackageNotFoundError:
            machine[package] = None
    return machine


@functools.cache
def code_version() -> dict[str, Any]:
    """``{"commit": ..., "uncommitted": ...}``: the commit of the checkout that this package is in, and
    whether files were changed since (None if git cannot tell); of an installed package, its version.
    """
    checkout = Path(__file__).resolve().parents[2]
    told = _git(checkout, "rev-parse", "HEAD") if (checkout / ".git").exists() else None
    if told is None:
        return {"commit": describe_machine()["circa_train"], "uncommitted": None}
    changed = _git(checkout, "status", "--porcelain", "--untracked-files=no")
    return {"commit": told, "uncommitted": None if changed is None else changed != ""}


def _git(checkout: Path, *arguments: str) -> str | None:
    """What git says; None where it is not there or refuses."""
    try:
        done = subprocess.run(
            ["git", "-C", str(checkout), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@dataclass
class RunFolder:
    """One job's folder, and the protocol of its files.

    Attributes:
        path: the folder.
        kind: train, evaluate, verify, search, export or benchmark.
        config: the resolved configuration, as plain data.
        overrides: what the command line (or the sweep) said, e.g. ``["fault.k=12"]``.
        inputs: digests of the files the job reads, by key.
        data_now: the identity of a data set, by its name, as it is now; None for one that its name settles.
        begun: has this process taken possession of it?
    """

    path: Path
    kind: str
    config: Mapping[str, Any]
    overrides: tuple[str, ...] = ()
    inputs: Mapping[str, str] = field(default_factory=dict)
    data_now: Callable[[str], str | None] = field(default=lambda name: None, repr=False)
    begun: bool = field(default=False, init=False)
    _started: float = field(default_factory=time.perf_counter, init=False, repr=False)

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.config, self.inputs)

    def finished(self) -> dict[str, Any] | None:
        """The stored result file if it answers exactly this question and all it speaks of is still there,
        else None.
        """
        stored, wrong = self._stored()
        return None if wrong else stored

    def _stored(self) -> tuple[dict[str, Any] | None, list[str]]:
        """The result file, None if there is no sound one, and why it is no answer."""
        try:
            stored = read_record(self.path / RESULT)
        except ValueError as error:
            return None, [f"{self.path / RESULT} is no result: {error}"]
        if stored is None:
            return None, []
        if stored.get("fingerprint") != self.fingerprint:
            return stored, self._differences(stored) or ["the question, in a way that has no name"]
        wrong = changed_files(self.path, stored.get("files") or {})
        data = stored.get("data")
        if data is not None and self.data_now(str(data["name"])) != data["identity"]:
            wrong.append(f"the contents of data {data['name']}")
        return stored, wrong

    def stale(self, neighbours: Iterable[Mapping[str, Any]] = ()) -> list[str]:
        """What differs from the earlier result that this job replaces; empty if there is none.

        That is the result in this very folder (then it is damaged, or the contents of what it speaks of
        changed), or else one of ``neighbours`` (:func:`stored_results`) that answered the same overrides
        under other defaults, and so under another hash.
        """
        stored, wrong = self._stored()
        if stored is not None or wrong:
            return wrong
        same = (dict(r) for r in neighbours if same_command(r, self.kind, self.overrides))
        stored = next(same, None)
        if stored is None or stored.get("fingerprint") == self.fingerprint:
            return []
        return self._differences(stored)

    def _differences(self, stored: Mapping[str, Any]) -> list[str]:
        before = stored.get("inputs") or {}
        names = flatten(self.config)
        return changes(stored.get("config") or {}, self.config) + [
            f"contents of {key} ({names.get(key)})"
            for key, digest in self.inputs.items()
            if before.get(key) != digest
        ] + [f"{key} was read then, and now is not" for key in before if key not in self.inputs]

    def start(self, config_yaml: str) -> bool:
        """Take possession: the configuration is written, and what an earlier attempt left as outcome is
        removed.

        Returns:
            Whether that attempt was on the same question and contents, and what it finished is as it left
            it, so that what it left half done may be gone on with.
        """
        self._started = time.perf_counter()
        self.begun = True
        self.path.mkdir(parents=True, exist_ok=True)
        earlier = read_json(self.path / STARTED) or {}
        stored, wrong = self._stored()
        same = earlier.get("fingerprint") == self.fingerprint and (stored is None or not wrong)
        for outcome in (RESULT, FAILURE):
            (self.path / outcome).unlink(missing_ok=True)
        write_text(self.path / CONFIG, config_yaml)
        # The version is asked for now, and kept: a checkout may be another when the job ends.
        about = {"fingerprint": self.fingerprint, "machine": describe_machine(), **code_version()}
        write_json(self.path / STARTED, about)
        return bool(same)

    def finish(
        self, result: Mapping[str, Any], *, files: Iterable[str] = (), data: tuple[str, str] | None = None
    ) -> dict[str, Any]:
        """Write ``result.json``, the last file of a job.

        Args:
            result: what the job found.
            files: what it made, by path in the folder: without them the result does not count.
            data: name and identity of the data set that it saw, if that has one.
        """
        content = sealed({
            "format": FORMAT,
            "kind": self.kind,
            "number": next_number(self.path.absolute().parent, RESULT),
            "config_hash": config_hash(self.config),
            "fingerprint": self.fingerprint,
            "inputs": dict(self.inputs),
            "data": None if data is None else {"name": data[0], "identity": data[1]},
            "files": describe_files(self.path, files),
            "overrides": list(self.overrides),
            "config": dict(self.config),
            "seconds": round(time.perf_counter() - self._started, 3),
            "finished": time.time(),
            "machine": describe_machine(),
            **code_version(),
            "result": dict(result),
        })  # fmt: skip
        write_json(self.path / RESULT, content)
        return content

    def withdraw(self) -> None:
        """Remove the lock and the log of a job that was refused, if the folder holds nothing else. The folder
        itself is left to who made it.
        """
        mine = {LOCK, LOG}
        if {path.name for path in self.path.glob("*")} <= mine:
            for name in mine:
                (self.path / name).unlink(missing_ok=True)

    def fail(self, error: BaseException) -> None:
        """Write ``failure.json``: which job, and why."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(
            self.path / FAILURE,
            {
                "format": FORMAT,
                "kind": self.kind,
                "overrides": list(self.overrides),
                "error": type(error).__name__,
                "message": str(error),
                "finished": time.time(),
            },
        )


def stored_results(folder: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """The readable result files one level below ``folder``, as dicts."""
    for path in sorted(Path(folder).glob(f"*/{RESULT}")):
        stored = read_json(path)
        if stored is not None:
            yield stored


def same_command(stored: Mapping[str, Any], kind: str, overrides: Iterable[str]) -> bool:
    """Does a stored result (or failure) answer the same overrides, in any order?"""
    return stored.get("kind") == kind and sorted(stored.get("overrides") or []) == sorted(overrides)


def _sha256(value: Any) -> str:
    return hashlib.sha256(
        json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode()
    ).hexdigest()


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
