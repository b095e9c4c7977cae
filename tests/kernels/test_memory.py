"""Memory that a process keeps, and the large results that are made of it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from circa_train.kernels.cpu import memory

KEEP = """
import resource, torch
from circa_train.kernels import keep_memory
kept = keep_memory()
def work():
    layers = [torch.ones(2_000_000) for _ in range(4)]
for _ in range(20):
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    work()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_kept_memory_is_used_again_unless_the_user_chose_otherwise() -> None:
    def run(**variables: str) -> tuple[str, int]:
        answer = subprocess.run(
            [sys.executable, "-c", KEEP],
            env=os.environ | variables,
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        kept, faults = answer.stdout.split()
        return kept, int(faults)

    kept, faults = run()
    refused, more = run(MALLOC_TRIM_THRESHOLD_="131072")
    assert (kept, refused) == ("True", "False")
    assert faults < more / 10, "80 tensors of 8 MB: new pages each time, or the same"


def test_large_results_are_ordinary_tensors() -> None:
    like = torch.empty(3, 1_000_000).t()
    assert memory.empty_like(like).stride() == torch.empty_like(like).stride()
    assert memory.empty_like(torch.empty(0)).shape == (0,)
