"""What the compiled CPU kernel is told: one record of numbers and addresses, and the meaning of its codes."""

from __future__ import annotations

import numpy as np

ROWS, STRIDED, TILED = range(3)
POSZERO, NEGPASS, UNIFORM, WINDOW = range(4)
RAISE, WRAP, SATURATE = range(3)
BOTH, ZEROED, PASSED = range(3)

#: One forward or backward. Addresses and numbers; int64 unless said otherwise.
JOB = np.dtype(
    [
        ("next", "i8"),  # address of the next chunk's number, shared by the threads
        ("counts", "i8"),  # address of COUNTS and, after them, the number of values that are not finite
        ("z", "i8"),  # address of the input (backward: the gradient)
        ("y", "i8"),  # address of the output (backward: the forward's output)
        ("out", "i8"),  # backward: address of the result
        ("elements", "i8"),
        ("chunk", "i8"),  # elements per chunk; they start at its multiples
        ("shift", "i8"),  # less this
        ("chunks", "i8"),
        ("lead", "i8"),  # element number of the first element, modulo RUN
        ("first_run", "i8"),  # and divided by it
        ("channels", "i8"),  # size of dimension 1, or 1
        ("plane", "i8"),  # elements per image and channel
        ("layout", "i8"),  # ROWS (row-major), STRIDED or TILED (channels are adjacent in memory)
        ("brain_float", "i8"),  # bool: 16-bit floats are bfloat16
        ("test", "i8"),  # POSZERO, NEGPASS, UNIFORM, WINDOW
        ("k", "i8"),  # address of one int64 k, or of one per channel
        ("k_count", "i8"),
        ("threshold", "i8"),  # UNIFORM: words below it flip
        ("direction", "i8"),
        ("low", "i8"),  # WINDOW
        ("high", "i8"),
        ("prime", "i8"),
        ("limit", "i8"),  # largest centred value
        ("reach", "u8"),  # the largest |z| whose x does not exceed it, as the bit pattern of the arithmetic's type
        ("scale", "f8"),  # 2^frac_bits
        ("policy", "i8"),
        ("statistics", "i8"),  # bool
        ("seed", "u8"),
        ("site", "i8"),
        ("draw", "i8"),
    ]
)
