"""Garbled evaluation in one process: real garbling, real messages, but the garbler picks the evaluator's
labels itself.

For checking that circuits garble right and for timing them. Without oblivious transfer there is no privacy,
and without a multiplication the result is that of the circuit: a bit, or for the full circuit the ReLU.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from circa_train.gc.aes.hashing import to_field
from circa_train.gc.aes.randomness import Randomness, Seed
from circa_train.gc.circuits.sign import SignCircuit
from circa_train.gc.protocol.garbling import Evaluator, Garbler
from circa_train.gc.protocol.messages import Message
from circa_train.gc.protocol.parties import DEFAULT_CHUNK


@dataclass(frozen=True, eq=False)
class LocalRun:
    """Results of a garbled layer.

    Attributes:
        values: int64 (instances,): the bit s, or ReLU(x) canonical; compare with ``SignCircuit.cleartext``.
        message_bytes: tables, output words and garbler's labels as they were serialised.
        garble_seconds, evaluate_seconds: processor time inside the garbler and inside the evaluator.
    """

    values: NDArray[np.int64]
    message_bytes: int
    garble_seconds: float
    evaluate_seconds: float


def run_locally(
    relu: SignCircuit,
    server_share: NDArray[np.int64],
    mask: NDArray[np.int64],
    *,
    seed: Seed = None,
    kernel: str = "auto",
    chunk: int = DEFAULT_CHUNK,
    digest: bool = True,
) -> LocalRun:
    """Garble and evaluate ``relu`` for x_s and t, int64 (instances,) in [0, p), chunk by chunk, and join the
    shares.
    """
    garbler = Garbler(seed=seed, kernel=kernel)
    evaluator = Evaluator(garbler.hello(), kernel=kernel)
    random = Randomness(seed, "drawn shares", kernel)
    values = np.empty(len(server_share), dtype=np.int64)
    sent, garbling, evaluating = 0, 0.0, 0.0
    for start in range(0, len(values), chunk):
        part = slice(start, min(start + chunk, len(values)))
        instances = part.stop - part.start
        drawn = to_field(random.blocks(instances), relu.prime) if relu.draws_share else None
        garbler_bits, evaluator_bits = (
            relu.garbler_bits(server_share[part], drawn),
            relu.evaluator_bits(mask[part]),
        )

        started = time.thread_time()
        batch = garbler.garble(relu.circuit, instances)
        garbling += time.thread_time() - started

        own_labels = batch.labels_without_transfer(evaluator_bits)
        messages = [
            batch.message.to_bytes(digest=digest),
            batch.input_labels(garbler_bits).to_bytes(digest=digest),
        ]
        tables, labels = (Message.from_bytes(data, digest=digest) for data in messages)
        sent += sum(map(len, messages))

        started = time.thread_time()
        client_share = evaluator.evaluate(relu.circuit, tables, labels, own_labels)
        evaluating += time.thread_time() - started

        server_share_of_result = batch.share if drawn is None else drawn
        assert server_share_of_result is not None
        values[part] = (client_share + server_share_of_result) % relu.prime
    return LocalRun(values, sent, garbling, evaluating)
