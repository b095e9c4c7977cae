"""Every sign test of a piece of a site: by law, by the simulator, by the circuit in the clear, and garbled.

A *piece* is a run of consecutive elements, whole leaves (:mod:`circa_train.verify.tally`), and so small that
all that is computed from it stays in a cache; it is all that a thread holds at a time.

What covers what, when every sign test is verified:

    law         the gate of the sign test on (x, t), a plain formula; the masks t come from their address
    simulator   what the network's own forward let through; its kernel draws the masks inside its pass
    circuit     all gates of the boolean circuit in the clear, on the bits of x_s = (x + t) mod p and of t,
                eight sign tests to a byte
    garbled     the same circuit garbled under fresh labels and evaluated; the garbler picks the evaluator's
                labels itself, and the bit is what the two shares of it add up to

The first is held against each of the others, value by value. What costs a message per sign test, oblivious
transfer, serialised tables and Beaver's multiplication, is not run on all: :mod:`circa_train.verify.checking`
runs it on a sample. A wrong mask or k that changes no answer is no mismatch; the digests of a run show it
beside another one's.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from circa_train.cost import circuit_of
from circa_train.fault import SignTest
from circa_train.field import to_canonical
from circa_train.gc import relu_cost
from circa_train.gc.circuits import SignCircuit, execute, from_bits
from circa_train.gc.protocol import DEFAULT_CHUNK, Evaluator, Garbler
from circa_train.verify.masks import consecutive_masks
from circa_train.verify.tally import (
    EVERY_WAY,
    LEAF,
    NAMED,
    Disagreement,
    SiteTally,
    first_of_each_way,
    leaf_digest,
)

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Site:
    """A site whose sign tests are verified.

    Attributes:
        name, number, seed: whose masks: its qualified name, and its part of their address.
        spec: the sign test.
        relus: sign tests per image.
        channels: channels of an image there.
    """

    name: str
    number: int
    seed: int
    spec: SignTest
    relus: int
    channels: int

    @cached_property
    def circuits(self) -> dict[SignTest, tuple[SignCircuit, int]]:
        """The circuit of the sign test of every channel, and its AES calls per sign test: drawing the
        false-labels of the inputs, garbling and evaluating.
        """
        found = {}
        for spec in dict.fromkeys(self.spec.channels()):
            relu = circuit_of(spec)
            cost = relu_cost(relu)
            inputs = relu.circuit.garbler_inputs + relu.circuit.evaluator_inputs
            found[spec] = relu, inputs + cost.garbling_aes + cost.evaluating_aes
        return found

    def pieces(self, images: int) -> Iterator[tuple[int, int]]:
        """(first element, elements) of the pieces of a batch of so many images, in order."""
        if self.relus >= LEAF:
            for image in range(images):
                for place in range(0, self.relus, LEAF):
                    yield image * self.relus + place, min(LEAF, self.relus - place)
        else:
            together = LEAF // self.relus
            for image in range(0, images, together):
                yield image * self.relus, min(together, images - image) * self.relus

    def leaves(self, first: int, count: int) -> Iterator[tuple[int, int, int]]:
        """(first element, elements, image) of the leaves of a piece, whose elements are numbered from the
        start of the draw.
        """
        at = first
        while at < first + count:
            image, place = divmod(at, self.relus)
            length = min(LEAF - place % LEAF, self.relus - place, first + count - at)
            yield at, length, image
            at += length

    def channels_of(self, first: int, count: int) -> Numbers:
        """The channel of each element of a piece."""
        plane = self.relus // self.channels
        return np.asarray((first + np.arange(count)) % self.relus // plane)

    def groups(self, first: int, count: int) -> list[tuple[SignTest, Numbers | None]]:
        """The sign tests in a piece, each with a single k, and where their elements are; None for all."""
        if not self.spec.by_channel:
            return [(self.spec, None)]
        order = list(self.circuits)
        which = np.array([order.index(spec) for spec in self.spec.channels()])[self.channels_of(first, count)]
        return [(order[i], np.flatnonzero(which == i)) for i in np.unique(which).tolist()]


@dataclass
class Work:
    """Processor seconds by phase, and AES calls, of one thread or of all."""

    seconds: dict[str, float] = field(default_factory=dict)
    aes_calls: int = 0
    _last: float = 0.0

    def start(self) -> None:
        self._last = time.thread_time()

    def lap(self, phase: str) -> None:
        """The time since the last lap was spent on ``phase``."""
        now = time.thread_time()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._last
        self._last = now


class Bench:
    """One thread's garbler and evaluator, and its account of work. Labels are always fresh: no outcome
    depends on them.
    """

    def __init__(self, kernel: str = "auto") -> None:
        self.garbler = Garbler(kernel=kernel)
        self.evaluator = Evaluator(self.garbler.hello(), kernel=kernel)
        self.work = Work()


def compare_piece(
    site: Site, x: Numbers, applied: NDArray[np.int8], first: int, draw: int, bench: Bench, *,
    told: bool = True,
) -> tuple[NDArray[np.bool_], SiteTally]:  # fmt: skip
    """Compare the sign tests of a piece in every way.

    Args:
        site: where.
        x: int64 (n,), centred values.
        applied: int8 (n,), what the simulator let through: see
            :func:`circa_train.verify.sampling.let_through`.
        first: number of the first element within the draw.
        draw: number of the draw.
        bench: the thread's own.
        told: whether ``applied`` tells the gate at x = 0, as real numbers do; an integer 0 looks the same
            behind either gate.

    Returns:
        (gates, tally): the answers of the garbled circuit, bool (n,), and what the piece adds up to.
    """
    work = bench.work
    work.start()
    t = consecutive_masks(site.spec, first, len(x), seed=site.seed, site=site.number, draw=draw)
    work.lap("masks")
    law = np.empty(len(x), dtype=bool)
    got = {way: np.empty(len(x), dtype=np.int64) for way in ("circuit", "garbled")}
    tally = SiteTally()
    ks = np.zeros(len(x), dtype=np.int64)
    for spec, at in site.groups(first, len(x)):
        relu, aes_calls = site.circuits[spec]
        chosen: Any = slice(None) if at is None else at
        values, masks = x[chosen], t[chosen]
        spec.check_values(torch.from_numpy(values))
        gate = spec.gate(torch.from_numpy(values), torch.from_numpy(masks)).numpy()
        k = int(getattr(spec, "k", 0))
        ks[chosen] = k
        server_share = to_canonical(values + masks, spec.prime)
        tally += _counts(spec, values, masks, gate, server_share, k)
        law[chosen] = gate
        work.lap("law")
        bits = _input_bits(relu, server_share, masks)
        work.lap("bits")
        got["circuit"][chosen] = _in_the_clear(relu, *bits)
        work.lap("circuit")
        got["garbled"][chosen] = _garbled(relu, *bits, bench)
        work.aes_calls += len(values) * aes_calls
    simulator = applied if told else np.where(x == 0, law, applied)
    mismatches, named = {}, []
    for way, answers in zip(EVERY_WAY, (simulator, got["circuit"], got["garbled"]), strict=True):
        wrong = np.flatnonzero(answers != law)
        mismatches[way] = len(wrong)
        for i in wrong[:NAMED].tolist():
            image, element = divmod(first + i, site.relus)
            named.append(Disagreement(
                site.name, image, element, way, int(x[i]), int(t[i]), int(ks[i]), int(law[i]), int(answers[i])
            ))  # fmt: skip
    gates = got["garbled"] == 1
    digests = _digests(site, first, x, t, gates)
    work.lap("digests")
    return gates, tally + SiteTally(
        mismatches=mismatches, named=first_of_each_way(tuple(named)), digests=digests
    )


def _counts(
    spec: SignTest, x: Numbers, t: Numbers, gate: NDArray[np.bool_], server_share: Numbers, k: int
) -> SiteTally:
    """What was seen, and what the exact law expects of the same values.

    A piece has at most 2^14 elements and a count is below 2^32, so their sums are exact in float64.
    """
    tensor, masks = torch.from_numpy(x), spec.mask_count
    positive, negative = x > 0, x < 0
    zeroed, passed = positive & ~gate, negative & gate
    cause = np.broadcast_to(np.asarray(spec.cause(tensor, torch.from_numpy(t))), x.shape)
    observed, expected, variance = {}, {}, {}
    for place, (kind, counts) in enumerate(zip(spec.kinds, spec.counts(tensor), strict=True)):
        here, count = cause == place, np.asarray(counts, dtype=np.float64)
        squares = count * count
        for direction, side, erred in (("zeroed", positive, zeroed), ("passed", negative, passed)):
            name, weights = f"{kind}_{direction}", side.astype(np.float64)
            faulty = float((count * weights).sum())
            observed[name] = int(np.count_nonzero(erred & here))
            expected[name] = faulty / masks
            variance[name] = max(0.0, (faulty - float((squares * weights).sum()) / masks) / masks)
    total = x + t
    return SiteTally(
        compared=len(x),
        zeros=len(x) - int(np.count_nonzero(x)),
        wraps=int(np.count_nonzero((total < 0) | (total >= spec.prime))),
        ties=int(np.count_nonzero(server_share >> k == t >> k)),
        observed=observed,
        expected=expected,
        variance=variance,
    )


def _input_bits(
    relu: SignCircuit, server_share: Numbers, t: Numbers
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The circuit's own encoding of both parties' inputs. Where it takes a drawn share it gets 0, so that the
    other share is the result.
    """
    drawn = np.zeros_like(server_share) if relu.draws_share else None
    return relu.garbler_bits(server_share, drawn), relu.evaluator_bits(t)


def _in_the_clear(relu: SignCircuit, server: NDArray[np.bool_], client: NDArray[np.bool_]) -> Numbers:
    """``relu.cleartext`` with eight instances to a byte."""
    wires = [np.packbits(row) for row in (*server, *client)]
    outputs = execute(relu.circuit, wires, _Packed())
    return from_bits(np.stack([np.unpackbits(row, count=server.shape[1]) for row in outputs]))


class _Packed:
    """The three gates on bytes of eight instances."""

    def xor(self, a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return a ^ b

    def negation(self, a: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return ~a

    def conjunction(self, a: NDArray[np.uint8], b: NDArray[np.uint8], number: int) -> NDArray[np.uint8]:
        return a & b


def _garbled(
    relu: SignCircuit, server: NDArray[np.bool_], client: NDArray[np.bool_], bench: Bench
) -> Numbers:
    """The bit that both parties' shares add up to, garbled and evaluated a few thousand at a time: their
    labels and tables fill a second-level cache.
    """
    work = bench.work
    answers = np.empty(server.shape[1], dtype=np.int64)
    for start in range(0, len(answers), DEFAULT_CHUNK):
        part = slice(start, min(start + DEFAULT_CHUNK, len(answers)))
        batch = bench.garbler.garble(relu.circuit, part.stop - part.start)
        work.lap("garbling")
        server_labels, client_labels = batch.input_labels(server[:, part]), batch.labels_without_transfer(
            client[:, part]
        )
        work.lap("labels")
        shares = bench.evaluator.evaluate(relu.circuit, batch.message, server_labels, client_labels)
        answers[part] = shares if batch.share is None else to_canonical(shares + batch.share, relu.prime)
        work.lap("evaluating")
    return answers


def _digests(
    site: Site, first: int, x: Numbers, t: Numbers, gates: NDArray[np.bool_]
) -> dict[str, int]:
    """The sums of the leaves' digests."""
    narrow = {"x": x.astype("<i4"), "masks": t.astype("<u4")}
    sums = {"x": 0, "masks": 0, "gates": 0}
    for at, count, image in site.leaves(first, len(x)):
        part, place = slice(at - first, at - first + count), at % site.relus
        for name, values in narrow.items():
            sums[name] += leaf_digest(image, place, values[part])
        sums["gates"] += leaf_digest(image, place, np.packbits(gates[part], bitorder="little"))
    return sums


def merged(work: Sequence[Work]) -> Work:
    """The work of several threads together."""
    total = Work()
    for each in work:
        for phase, seconds in each.seconds.items():
            total.seconds[phase] = total.seconds.get(phase, 0.0) + seconds
        total.aes_calls += each.aes_calls
    return total
