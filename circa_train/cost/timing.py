"""Seconds of one ReLU, measured on the machine at hand."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from circa_train.gc.aes import Randomness
from circa_train.gc.circuits import SignCircuit
from circa_train.gc.protocol import DEFAULT_CHUNK, EvaluatorTransfer, Garbler, GarblerTransfer, run_locally


@dataclass(frozen=True)
class Seconds:
    """Processor time on one core, in seconds, of one ReLU or of many.

    Attributes:
        garble: inside the garbler, its labels and the projection of the result included.
        evaluate: inside the evaluator.
        transfer: oblivious transfer of the evaluator's input bits, both sides added up, without the base
            transfers.
    """

    garble: float
    evaluate: float
    transfer: float

    @property
    def total(self) -> float:
        return self.garble + self.evaluate + self.transfer

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(
            self.garble + other.garble, self.evaluate + other.evaluate, self.transfer + other.transfer
        )

    def __mul__(self, relus: float) -> Seconds:
        """Of so many ReLUs, one after the other."""
        return Seconds(self.garble * relus, self.evaluate * relus, self.transfer * relus)


def sum_of(parts: Iterable[Seconds]) -> Seconds:
    """All of them, one after the other."""
    return sum(parts, Seconds(0.0, 0.0, 0.0))


def measure_seconds(
    circuits: Iterable[SignCircuit], *, instances: int = 4096, repeats: int = 3, kernel: str = "auto"
) -> dict[SignCircuit, Seconds]:
    """Garble, transfer and evaluate ``instances`` of each circuit: the median of ``repeats`` runs, after one
    to warm up.
    """
    generator = np.random.default_rng(0)
    random = Randomness(None, "cost", kernel)
    sender = GarblerTransfer(Garbler(kernel=kernel).offset, random.child("server"))
    receiver = EvaluatorTransfer(random.child("client"))
    receiver.setup(sender.setup(receiver.hello()))
    measured = {}
    for circuit in circuits:
        server_share, mask = generator.integers(0, circuit.prime, (2, instances))
        rows = []
        for _ in range(repeats + 1):
            run = run_locally(circuit, server_share, mask, kernel=kernel)
            rows.append(
                (run.garble_seconds, run.evaluate_seconds, _transfer(circuit, mask, sender, receiver))
            )
        measured[circuit] = Seconds(
            *(statistics.median(column) / instances for column in zip(*rows[1:], strict=True))
        )
    return measured


def _transfer(
    circuit: SignCircuit, mask: NDArray[np.int64], sender: GarblerTransfer, receiver: EvaluatorTransfer
) -> float:
    """Seconds that both sides take for the labels of all evaluator inputs, in chunks as the protocol has
    them.
    """
    started = time.thread_time()
    for start in range(0, len(mask), DEFAULT_CHUNK):
        bits = circuit.evaluator_bits(mask[start : start + DEFAULT_CHUNK]).reshape(-1)
        matrix, _ = receiver.extend(bits)
        sender.extend(matrix, len(bits))
    return time.thread_time() - started
