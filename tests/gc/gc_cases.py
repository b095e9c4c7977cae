"""Shared by the tests of this folder: every circuit of a prime, plain integer semantics, and operands worth
trying.
"""

from __future__ import annotations

import numpy as np
import pytest

from circa_train.field import DEFAULT_PRIME, to_centred
from circa_train.gc.aes.engines import available_kernels
from circa_train.gc.circuits.relu import KINDS, MODES, ReluCircuit

#: Every kernel of this machine. They share one source, so the narrower vectors are for thorough runs.
KERNELS = [
    pytest.param(name, marks=[pytest.mark.slow] * (place > 0 and name != "numpy"))
    for place, name in enumerate(available_kernels())
]


def circuits(prime, ks=None):
    """Every circuit of this prime: all kinds, modes, k and multiplexers."""
    bits = prime.bit_length()
    for mux in (False, True):
        if not mux:
            yield ReluCircuit("full", prime)
        yield ReluCircuit("exact", prime, multiplexer=mux)
        for mode in MODES:
            yield ReluCircuit("stochastic", prime, 0, mode, mux)
            for k in range(bits) if ks is None else ks:
                yield ReluCircuit("truncated", prime, k, mode, mux)
    assert {"full", "exact", "stochastic", "truncated"} == set(KINDS)


def plain(relu, server_share, mask):
    """The value of a circuit by integer arithmetic on Python's and numpy's operators, without a gate."""
    x = to_centred(server_share - mask, relu.prime)
    if relu.kind == "full":
        return np.maximum(x, 0)
    if relu.kind == "exact":
        return (x >= 0).astype(np.int64)
    high_share, high_mask = server_share // 2**relu.k, mask // 2**relu.k
    return (high_share > high_mask if relu.mode == "poszero" else high_share >= high_mask).astype(np.int64)


def all_pairs(prime):
    """All (x_s, t)."""
    server_share, mask = np.meshgrid(np.arange(prime), np.arange(prime))
    return server_share.ravel(), mask.ravel()


def boundary_pairs(prime=DEFAULT_PRIME, k=12, fuzz=2000, seed=0):
    """(x_s, t) for x and t at every edge of the law, and for random ones of all magnitudes."""
    half = (prime - 1) // 2
    edges = [0, 1, 2**k, 2**k - 1, 2**k + 1, half - 1, half]
    xs = sorted({sign * x for x in edges for sign in (1, -1) if x <= half})
    masks = [m for m in (0, 1, 2**k - 1, 2**k, half, half + 1, prime - 2, prime - 1) if m < prime]
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, prime.bit_length(), fuzz)
    x = np.concatenate(
        [np.repeat(xs, len(masks)), np.minimum(rng.integers(0, 2**sizes), half) * rng.choice([-1, 1], fuzz)]
    )
    t = np.concatenate([np.tile(masks, len(xs)), rng.integers(0, prime, fuzz)])
    return (x + t) % prime, t


def check_equal(relu, server_share, mask, want, got):
    """Assert equality, naming the first operands that differ."""
    wrong = np.flatnonzero(want != got)
    if len(wrong):
        i = wrong[0]
        raise AssertionError(
            f"{len(wrong)} of {len(want)} differ, first at {relu}: "
            f"x_s = {server_share[i]}, t = {mask[i]}: want {want[i]}, got {got[i]}"
        )
