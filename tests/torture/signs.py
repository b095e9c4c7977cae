"""The simulator, the circuit in the clear and the garbled circuit, on random values at many primes: equal or
wrong.
"""

from __future__ import annotations

import random

import numpy as np
import torch

from circa_train import TruncatedSign, truncated_sign
from circa_train.field import to_centred
from circa_train.gc.circuits.relu import MODES, ReluCircuit
from circa_train.gc.protocol.local import run_locally
from tests.torture.tally import Tally

BATCH = 20_000


def compared_signs(count: int, seed: int) -> Tally:
    """``count`` sign tests, each decided in three ways, at primes and k of every length."""
    rng, draws, tally = random.Random(seed), np.random.default_rng(seed), Tally()
    while (left := count - tally.counts["compared sign tests"]) > 0:
        prime = _prime(rng)
        k, mode, size = rng.randrange(prime.bit_length()), rng.choice(MODES), min(left, BATCH)
        relu = ReluCircuit("truncated", prime, k, mode)
        t = draws.integers(0, prime, size)
        x = to_centred(draws.integers(0, prime, size) >> draws.integers(0, prime.bit_length(), size), prime)
        x *= draws.choice((-1, 1), size)
        share = (x + t) % prime
        spec = TruncatedSign(k, mode, prime)
        law = truncated_sign(torch.from_numpy(x), torch.from_numpy(t), spec).numpy().astype(np.int64)
        for way, got in (
            ("cleartext", relu.cleartext(share, t)),
            ("garbled", run_locally(relu, share, t).values),
        ):
            if different := int((got != law).sum()):
                tally.wrong.append(f"seed {seed}: {relu}, {way}: {different} of {size} signs differ")
        tally.counts["compared sign tests"] += size
    return tally


def _prime(rng: random.Random) -> int:
    """An odd prime below 2^31, its length uniform."""
    while True:
        candidate = rng.randrange(3, 1 << rng.randrange(3, 32), 2)
        if all(candidate % divisor for divisor in range(3, int(candidate**0.5) + 1, 2)):
            return candidate
