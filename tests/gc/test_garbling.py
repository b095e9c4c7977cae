"""Garbler and evaluator: secrets are fresh, messages are checked, damage does exactly what colours say."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace

import numpy as np
import pytest
from gc_cases import KERNELS, boundary_pairs, check_equal, circuits, plain

from circa_train.field import DEFAULT_PRIME
from circa_train.gc.aes.engines import make_kernel
from circa_train.gc.aes.randomness import Randomness
from circa_train.gc.circuits.relu import ReluCircuit
from circa_train.gc.protocol.garbling import Evaluator, Garbler, payload_bytes
from circa_train.gc.protocol.messages import DIGEST_BYTES, Message, MessageKind, overhead


def garbled(relu=None, instances=8, seed=1, kernel="auto"):
    """(garbler, batch, active labels of the evaluator, input-label message, evaluator), all inputs zero or
    one.
    """
    relu = relu or ReluCircuit(k=12)
    garbler = Garbler(seed=seed, kernel=kernel)
    batch = garbler.garble(relu.circuit, instances)
    rng = np.random.default_rng(0)
    own = batch.labels_without_transfer(rng.random((relu.circuit.evaluator_inputs, instances)) < 0.5)
    labels = batch.input_labels(rng.random((relu.circuit.garbler_inputs, instances)) < 0.5)
    return garbler, batch, own, labels, Evaluator(garbler.hello(), kernel=kernel)


#: sha256 over every payload that is sent for seed 2106, every circuit, 5 instances. A change of these bytes
#: is a change of the protocol: sessions of different versions would no longer understand each other.
GOLDEN_TRANSCRIPT = "cdb458acf6800246e6b011973f41ebb07462cdd42b4823904eec46d62b886fa4"


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_transcript_of_a_seed_is_golden(kernel):
    transcript = hashlib.sha256()
    garbler = Garbler(seed=2106, kernel=kernel)
    transcript.update(garbler.hello().payload)
    server_share, mask = (
        np.array([0, 1, 4096, 123456789, DEFAULT_PRIME - 1]),
        np.array([7, 0, 4095, 987654321, 2**30]),
    )
    for relu in circuits(DEFAULT_PRIME, ks=[12]):
        batch = garbler.garble(relu.circuit, 5)
        drawn = np.arange(5) if relu.draws_share else None
        transcript.update(batch.message.payload)
        transcript.update(batch.input_labels(relu.garbler_bits(server_share, drawn)).payload)
        transcript.update(batch.labels_without_transfer(relu.evaluator_bits(mask)).tobytes())
    assert transcript.hexdigest() == GOLDEN_TRANSCRIPT


def test_without_a_seed_every_run_has_its_own_secrets():
    first, second = Garbler(), Garbler()
    assert (first.offset != second.offset).any()
    assert first.hello().payload.tobytes() != second.hello().payload.tobytes()
    circuit = ReluCircuit(k=12).circuit
    assert (
        first.garble(circuit, 4).message.payload.tobytes()
        != second.garble(circuit, 4).message.payload.tobytes()
    )


def test_no_two_labels_of_a_session_are_equal():
    relu, garbler, seen, drawn = ReluCircuit(k=12), Garbler(), set(), 0
    circuit = relu.circuit
    for _ in range(3):
        batch = garbler.garble(circuit, 200)
        for evaluator_bit in (False, True):
            active = batch.labels_without_transfer(np.full((circuit.evaluator_inputs, 200), evaluator_bit))
            seen.update(active.reshape(-1).view("V16").tolist())
            drawn += active.size // 2
        false_labels = np.frombuffer(
            batch.input_labels(np.zeros((circuit.garbler_inputs, 200), bool)).payload.tobytes(),
            dtype=np.uint64,
        ).reshape(-1, 2)
        for labels in (false_labels, false_labels ^ garbler.offset):
            seen.update(np.ascontiguousarray(labels).reshape(-1).view("V16").tolist())
            drawn += len(labels)
    assert len(seen) == drawn == 3 * 200 * 2 * circuit.inputs


def test_labels_of_a_wire_differ_by_the_offset_and_in_colour():
    garbler = Garbler()
    circuit = ReluCircuit(k=12).circuit
    batch = garbler.garble(circuit, 50)
    shape = (circuit.evaluator_inputs, 50)
    if_false, if_true = (batch.labels_without_transfer(np.full(shape, bit)) for bit in (False, True))
    assert (if_false ^ if_true == garbler.offset).all()
    assert garbler.offset[0] & np.uint64(1) == 1
    assert ((if_false[..., 0] ^ if_true[..., 0]) & np.uint64(1) == 1).all()
    # Colours are independent of the bit: ones of shape[0] * 50 fair draws, within 5 sigma.
    ones, draws = int((if_false[..., 0] & np.uint64(1)).sum()), if_false[..., 0].size
    assert abs(ones - draws / 2) < 5 * math.sqrt(draws) / 2


@pytest.mark.parametrize("kernel", KERNELS)
def test_tweaks_differ_between_instances_gates_and_halves(kernel):
    """With the very same labels everywhere, only tweaks can tell the ciphertexts apart."""
    circuit = ReluCircuit(k=12).circuit
    cipher, label = make_kernel(bytes(16), kernel), np.array([6, 7], dtype=np.uint64)
    hashes = {
        bytes(cipher.tccr_hash(np.tile(label, (9, 1)), tweak, first)[i].tobytes())
        for tweak in range(2 * circuit.and_gates + 1)
        for first in (0, 9)
        for i in range(9)
    }
    assert len(hashes) == (2 * circuit.and_gates + 1) * 18
    tables = np.zeros((circuit.and_gates, 2, 9, 2), dtype=np.uint64)
    inputs = (np.tile(label, (19, 9, 1)), np.tile(label, (19, 9, 1)))
    cipher.garble(circuit, inputs, np.array([9, 1], dtype=np.uint64), tables, 0)
    assert len(set(tables.reshape(-1).view("V16").tolist())) == tables.size // 2


def test_shares_of_the_bit_are_uniform():
    """Both the garbler's and the evaluator's share alone: chi-square over Z_7 with a bound of 5 sigma of its
    own law.
    """
    prime, instances = 7, 7000
    relu = ReluCircuit(prime=prime)
    _, batch, own, labels, evaluator = garbled(relu, instances, seed=None)
    degrees = prime - 1
    for share in (batch.share, evaluator.evaluate(relu.circuit, batch.message, labels, own)):
        counts = np.bincount(share, minlength=prime)
        chi = float(((counts - instances / prime) ** 2 / (instances / prime)).sum())
        assert chi < degrees + 5 * math.sqrt(2 * degrees) + 5, f"counts {counts}"
    # The planted bias that this must be able to see: a share reduced from three bits, so that 0 comes twice
    # as often.
    biased = np.bincount(np.random.default_rng(0).integers(0, 8, instances) % prime, minlength=prime)
    chi = float(((biased - instances / prime) ** 2 / (instances / prime)).sum())
    assert chi > degrees + 5 * math.sqrt(2 * degrees) + 5


def test_a_damaged_message_is_refused_by_its_digest():
    _, batch, _, labels, _ = garbled()
    for message in (batch.message, labels):
        data = message.to_bytes()
        assert (Message.from_bytes(data).payload == message.payload).all()
        rng = np.random.default_rng(0)
        for position in [*range(overhead()), *rng.integers(0, len(data), 40).tolist(), len(data) - 1]:
            damaged = bytearray(data)
            damaged[position] ^= 1 << int(rng.integers(8))
            with pytest.raises(ValueError, match="message"):
                Message.from_bytes(bytes(damaged))


def test_the_digest_can_be_switched_off_but_not_left_out():
    _, batch, _, _, _ = garbled()
    bare = batch.message.to_bytes(digest=False)
    assert len(batch.message.to_bytes()) - len(bare) == DIGEST_BYTES
    assert (Message.from_bytes(bare, digest=False).payload == batch.message.payload).all()
    with pytest.raises(ValueError, match="agree on whether"):
        Message.from_bytes(bare)
    with pytest.raises(ValueError, match="agree on whether"):
        Message.from_bytes(batch.message.to_bytes(), digest=False)


@pytest.mark.parametrize("digest", [True, False])
def test_a_truncated_or_extended_message_is_refused(digest):
    _, batch, _, _, _ = garbled()
    data = batch.message.to_bytes(digest=digest)
    for length in (0, 3, overhead(digest=digest) - 1, overhead(digest=digest), len(data) - 16, len(data) - 1):
        with pytest.raises(ValueError, match="cut off"):
            Message.from_bytes(data[:length], digest=digest)
    with pytest.raises(ValueError, match="run together"):
        Message.from_bytes(data + b"\0", digest=digest)
    with pytest.raises(ValueError, match="not from this protocol"):
        Message.from_bytes(b"X" + data[1:], digest=digest)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("half", [0, 1], ids=["generator half", "evaluator half"])
def test_a_flipped_table_bit_changes_exactly_the_instances_of_colour_one(kernel, half):
    """One AND gate on two inputs: a ciphertext is used only where the active label of its operand has colour
    1.
    """
    relu, instances = ReluCircuit(k=30), 4000
    assert relu.circuit.and_gates == 1
    _, batch, own, labels, evaluator = garbled(relu, instances, kernel=kernel)
    operands = labels.payload.view(np.uint64).reshape(1, instances, 2), own
    want_changed = (operands[half][0, :, 0] & np.uint64(1)).astype(bool)
    honest = evaluator.evaluate(relu.circuit, batch.message, labels, own)

    payload = batch.message.payload.copy()
    tables = payload[: 32 * instances].view(np.uint64).reshape(2, instances, 2)
    tables[half, :, 1] ^= np.uint64(1 << 17)
    message = Message.from_bytes(replace(batch.message, payload=payload).to_bytes(digest=False), digest=False)
    changed = evaluator.evaluate(relu.circuit, message, labels, own) != honest

    assert (changed == want_changed).all()
    assert abs(int(changed.sum()) - instances / 2) < 5 * math.sqrt(instances) / 2


def test_input_labels_are_given_once():
    _, batch, _, _, _ = garbled()
    with pytest.raises(RuntimeError, match="garble another batch"):
        batch.input_labels(np.zeros((batch.circuit.garbler_inputs, 8), bool))


def test_messages_of_another_batch_circuit_or_kind_are_refused():
    relu, other = ReluCircuit(k=12), ReluCircuit(k=12, mode="negpass")
    garbler, batch, own, labels, evaluator = garbled(relu)
    second = garbler.garble(relu.circuit, 8)
    second_labels = second.input_labels(np.zeros((19, 8), bool))
    with pytest.raises(ValueError, match="different batches"):
        evaluator.evaluate(relu.circuit, batch.message, second_labels, own)
    with pytest.raises(ValueError, match="same prime, k, mode"):
        evaluator.evaluate(other.circuit, batch.message, labels, own)
    with pytest.raises(ValueError, match="out of step"):
        evaluator.evaluate(relu.circuit, labels, batch.message, own)
    with pytest.raises(ValueError, match="own labels"):
        evaluator.evaluate(relu.circuit, batch.message, labels, own[:-1])
    short = replace(batch.message, payload=batch.message.payload[:-4])
    with pytest.raises(ValueError, match="payload has"):
        evaluator.evaluate(relu.circuit, short, labels, own)
    with pytest.raises(ValueError, match="expected a HELLO"):
        Evaluator(batch.message)


def test_output_words_outside_the_field_are_refused():
    relu, instances = ReluCircuit(k=12), 8
    _, batch, own, labels, evaluator = garbled(relu, instances)
    payload = batch.message.payload.copy()
    payload[-4:] = 255
    with pytest.raises(ValueError, match="no element of Z_"):
        evaluator.evaluate(relu.circuit, replace(batch.message, payload=payload), labels, own)


def test_a_message_about_more_instances_than_there_can_be_is_refused():
    _, batch, _, _, _ = garbled()
    for place in ({"first_instance": 2**64 - 1}, {"instances": 2**63}):
        with pytest.raises(ValueError, match="no session has so many"):
            Message.from_bytes(replace(batch.message, **place).to_bytes())


def test_a_batch_of_another_session_number_is_not_silently_wrong():
    """The instance number enters every hash: relabelling both messages of a batch gives noise, not the old
    result.
    """
    relu = ReluCircuit(k=12)
    _, batch, own, labels, evaluator = garbled(relu, 64)
    honest = evaluator.evaluate(relu.circuit, batch.message, labels, own)
    moved = [replace(message, first_instance=1) for message in (batch.message, labels)]
    assert (evaluator.evaluate(relu.circuit, *moved, own) != honest).all()


def test_garbler_refusals():
    garbler, circuit = Garbler(), ReluCircuit(k=12).circuit
    with pytest.raises(ValueError, match="nothing to garble"):
        garbler.garble(circuit, 0)
    with pytest.raises(ValueError, match="evaluator labels"):
        garbler.garble(circuit, 4, np.zeros((19, 5, 2), np.uint64))
    with pytest.raises(ValueError, match="input bits"):
        garbler.garble(circuit, 4).input_labels(np.zeros((18, 4), bool))
    with pytest.raises(TypeError, match="seed"):
        Randomness(1.5)
    with pytest.raises(TypeError, match="seed"):
        Garbler(seed=True)


def test_streams_are_independent_and_continue():
    one, same, other = Randomness(5, "a"), Randomness(5, "a"), Randomness(5, "b")
    joined = one.blocks(10)
    assert (joined == np.concatenate([same.blocks(3), same.blocks(7)])).all()
    assert (joined != other.blocks(10)).any()
    assert (joined != Randomness(5).child("a").blocks(10)).any()
    assert one.secret("x") != one.secret("y")


@pytest.mark.parametrize("sizes", [(37,), (1, 36), (12, 25)])
def test_batches_of_any_size_evaluate_right(sizes):
    server_share, mask = boundary_pairs(fuzz=50)
    server_share, mask = server_share[-37:], mask[-37:]
    relu = ReluCircuit(k=12)
    garbler = Garbler()
    evaluator = Evaluator(garbler.hello())
    values, start = [], 0
    for size in sizes:
        part = slice(start, start + size)
        batch = garbler.garble(relu.circuit, size)
        assert len(batch.message.payload) == payload_bytes(relu.circuit, size) == 612 * size
        assert (batch.message.kind, batch.message.first_instance) == (MessageKind.TABLES, start)
        own = batch.labels_without_transfer(relu.evaluator_bits(mask[part]))
        labels = batch.input_labels(relu.garbler_bits(server_share[part]))
        values.append(
            (evaluator.evaluate(relu.circuit, batch.message, labels, own) + batch.share) % relu.prime
        )
        start += size
    check_equal(relu, server_share, mask, plain(relu, server_share, mask), np.concatenate(values))
