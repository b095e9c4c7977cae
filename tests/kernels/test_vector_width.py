"""The masks are the same whatever the width of the processor's registers: compiled for several, each in a
process of its own, and compared with the readable reference.
"""

import os
import platform
import subprocess
import sys

import pytest

_COMPARE = """
from circa_train.fault.masks import uniform_masks
from circa_train.kernels.cpu import launch
for prime in (2138816513, 2**31 - 1, 257, 3):
    for first in (0, 77, 2**34 - 500):  # the last run has blocks on both sides of 2^32
        address = dict(seed=2**63 + 5, site=9, draw=2**40 + 1, prime=prime, first_element=first)
        assert (launch.uniform_masks((3, 700), **address) == uniform_masks((3, 700), **address)).all()
print("equal")
"""

_TARGETS = {
    "vectors of 256 bits": {"CIRCA_TRAIN_VECTOR_BITS": "256"},
    "vectors of 512 bits": {"CIRCA_TRAIN_VECTOR_BITS": "512"},
    "registers of 128 bits": {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": "", "NUMBA_ENABLE_AVX": "0"},
    "AVX2": {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2"},
}


def _run(tmp_path, variables):
    return subprocess.run(
        [sys.executable, "-c", _COMPARE],
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1", **variables},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("target", _TARGETS)
def test_masks_do_not_depend_on_the_width_of_registers(tmp_path, target):
    if "NUMBA_CPU_NAME" in _TARGETS[target] and platform.machine() != "x86_64":
        pytest.skip("these are x86 processors")
    done = _run(tmp_path, _TARGETS[target])
    assert done.stdout == "equal\n", done.stderr


def test_another_width_is_refused_by_name(tmp_path):
    done = _run(tmp_path, {"CIRCA_TRAIN_VECTOR_BITS": "1024"})
    assert "CIRCA_TRAIN_VECTOR_BITS = '1024' is not one of ['256', '512']" in done.stderr
