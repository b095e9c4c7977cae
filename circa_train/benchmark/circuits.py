"""Rates of garbling and evaluating beside the AES ceiling of the same run.

With the default hash an AND gate costs the garbler eight AES calls and the evaluator four, so blocks per
second / 8 and / 4 are what a machine could do if everything but AES were free. Ceilings and rates are
measured alternately (:mod:`circa_train.benchmark.timing`), and times are processor time of the one thread
that works.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from circa_train.benchmark.timing import Spread, interleaved, seconds_of
from circa_train.field import DEFAULT_PRIME
from circa_train.gc import relu_cost
from circa_train.gc.aes import BLOCK_BYTES, KEY_BYTES, Randomness, make_kernel
from circa_train.gc.circuits import ReluCircuit
from circa_train.gc.protocol import DEFAULT_CHUNK, Evaluator, EvaluatorTransfer, Garbler, GarblerTransfer

_processor_seconds = partial(seconds_of, clock=time.thread_time)

#: Bytes per call for the plain AES ceiling: a second-level cache holds them, and the microseconds of a call
#: do not show.
_BUFFER_BYTES = 1 << 20


def measure(
    *,
    prime: int = DEFAULT_PRIME,
    k: int = 12,
    kernel: str = "auto",
    instances: int = 1 << 13,
    chunk: int = DEFAULT_CHUNK,
    pairs: int = 25,
) -> dict[str, Any]:
    """Measure one core on the truncated sign at this prime and k.

    Garbling includes drawing the server's labels and the projection of the result, evaluating includes the
    projection; messages and digests are outside, and so is oblivious transfer (:func:`measure_transfer`).

    Returns:
        dict ready for JSON. Rates are per second; every {median, low, high} is over ``pairs`` repetitions:
        "kernel", "hash", "and_gates_per_relu", "garbled_bytes_per_relu";
        "ceiling_blocks" (the faster of "openssl_blocks", OpenSSL's ECB, and "own_blocks", this package's
            counter mode);
        "garble_and_gates", "evaluate_and_gates", "garble_ns_per_relu", "evaluate_ns_per_relu";
        "garble_ratio" and "evaluate_ratio" against ceiling / 8 and ceiling / 4, "garble_ratio_openssl" and
        "evaluate_ratio_openssl" against OpenSSL's blocks alone.
    """
    relu = ReluCircuit("truncated", prime, k)
    circuit = relu.circuit
    garbler = Garbler(kernel=kernel)
    evaluator = Evaluator(garbler.hello(), kernel=kernel)
    chunk = min(chunk, instances)
    chunks = max(1, instances // chunk)
    gates = circuit.and_gates * chunks * chunk
    zeros = np.zeros((circuit.evaluator_inputs, chunk), dtype=bool)
    transferred = garbler.garble(circuit, chunk)
    labels = transferred.labels_without_transfer(zeros)
    garbler_labels = transferred.input_labels(np.zeros((circuit.garbler_inputs, chunk), dtype=bool))

    def garble() -> None:
        for _ in range(chunks):
            garbler.garble(circuit, chunk, labels)

    def evaluate() -> None:
        for _ in range(chunks):
            evaluator.evaluate(circuit, transferred.message, garbler_labels, labels)

    own, openssl = _own_aes(kernel), _openssl_aes()
    for warm_up in (garble, evaluate, own, openssl):
        warm_up()
    samples: dict[str, list[float]] = {}
    timed = interleaved((openssl, own, garble, evaluate), pairs, _processor_seconds)
    for openssl_seconds, own_seconds, garble_seconds, evaluate_seconds in zip(*timed, strict=True):
        openssl_blocks, own_blocks = _AES_BLOCKS / openssl_seconds, _AES_BLOCKS / own_seconds
        ceiling = max(openssl_blocks, own_blocks)
        row = {
            "ceiling_blocks": ceiling,
            "openssl_blocks": openssl_blocks,
            "own_blocks": own_blocks,
            "garble_and_gates": gates / garble_seconds,
            "evaluate_and_gates": gates / evaluate_seconds,
            "garble_ns_per_relu": garble_seconds / (chunks * chunk) * 1e9,
            "evaluate_ns_per_relu": evaluate_seconds / (chunks * chunk) * 1e9,
            "garble_ratio": gates / garble_seconds / (ceiling / 8),
            "evaluate_ratio": gates / evaluate_seconds / (ceiling / 4),
            "garble_ratio_openssl": gates / garble_seconds / (openssl_blocks / 8),
            "evaluate_ratio_openssl": gates / evaluate_seconds / (openssl_blocks / 4),
        }
        for name, value in row.items():
            samples.setdefault(name, []).append(value)
    return {
        "kernel": make_kernel(bytes(KEY_BYTES), kernel).name,
        "hash": "tccr (TMMO, 2 AES calls)",
        "and_gates_per_relu": circuit.and_gates,
        "garbled_bytes_per_relu": relu_cost(relu).garbled_bytes,
        **{name: asdict(Spread.of(values)) for name, values in samples.items()},
    }


#: AES blocks of one transfer: a column's stream for the garbler, and two for the evaluator, of 128 bits each.
TRANSFER_BLOCKS = 3


def measure_transfer(
    *, kernel: str = "auto", chunk: int = 1 << 15, chunks: int = 8, pairs: int = 9
) -> dict[str, Any]:
    """Nanoseconds of a label by oblivious transfer, both parties added up, beside the AES ceiling.

    The 128 base transfers are outside: they are once per pair of parties, whatever the number of labels.

    Returns:
        dict ready for JSON, every {median, low, high} over ``pairs``: "transfer_ns", "ceiling_ns" (the
        :data:`TRANSFER_BLOCKS` AES blocks of a label).
    """
    random = Randomness(None, "speed", kernel)
    choices = np.unpackbits(random.blocks(chunk // (8 * BLOCK_BYTES)).view(np.uint8)).astype(bool)
    sender = GarblerTransfer(Garbler(kernel=kernel).offset, random.child("garbler"))
    receiver = EvaluatorTransfer(random.child("evaluator"))
    receiver.setup(sender.setup(receiver.hello()))

    def transfer() -> None:
        for _ in range(chunks):
            matrix, _own = receiver.extend(choices)
            sender.extend(matrix, chunk)

    own = _own_aes(kernel)
    for warm_up in (transfer, own):
        warm_up()
    seconds = interleaved((transfer, own), pairs, _processor_seconds)
    per_label = (1e9 / (chunks * chunk), 1e9 * TRANSFER_BLOCKS / _AES_BLOCKS)
    return {
        name: asdict(Spread.of([factor * value for value in values]))
        for name, values, factor in zip(("transfer_ns", "ceiling_ns"), seconds, per_label, strict=True)
    }


def aes_ceiling(kernel: str = "auto", repeats: int = 9) -> float:
    """AES blocks per second of one core: the faster of this package's counter mode and OpenSSL's ECB."""
    best = 0.0
    for run in (_own_aes(kernel), _openssl_aes()):
        run()
        best = max(best, *(_AES_BLOCKS / _processor_seconds(run) for _ in range(repeats)))
    return best


_AES_CALLS = 8
_AES_BLOCKS = _AES_CALLS * _BUFFER_BYTES // BLOCK_BYTES


def _openssl_aes() -> Callable[[], None]:
    encryptor = Cipher(algorithms.AES(bytes(KEY_BYTES)), modes.ECB()).encryptor()
    source = np.zeros(_BUFFER_BYTES, dtype=np.uint8)
    target = np.empty(_BUFFER_BYTES + BLOCK_BYTES - 1, dtype=np.uint8)

    def run() -> None:
        for _ in range(_AES_CALLS):
            encryptor.update_into(source.data, target.data)

    return run


def _own_aes(kernel: str) -> Callable[[], None]:
    cipher = make_kernel(bytes(KEY_BYTES), kernel)
    target = np.empty((_BUFFER_BYTES // BLOCK_BYTES, 2), dtype=np.uint64)

    def run() -> None:
        for _ in range(_AES_CALLS):
            cipher.counters(0, target)

    return run
