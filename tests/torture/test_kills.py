"""A few kills; ``make torture`` gives the large dose."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from .kills import NEEDED

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("module", NEEDED)
def test_the_modules_that_are_loaded_beforehand_exist(module: str) -> None:
    assert importlib.util.find_spec(module) is not None


@pytest.mark.slow
def test_killed_jobs_end_as_if_nothing_had_been(tmp_path: Path) -> None:
    """In a process of its own: it forks, and must not have threads."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.torture", "--part", "kills", "--scale", "0.05", "--out", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
