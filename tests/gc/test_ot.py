"""Oblivious transfer: what both sides end with, and what is refused."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace

import numpy as np
import pytest
from nacl import bindings as sodium

from circa_train.gc.aes.randomness import Randomness
from circa_train.gc.protocol.base_ot import POINT_BYTES, BaseReceiver, BaseSender
from circa_train.gc.protocol.garbling import Garbler
from circa_train.gc.protocol.messages import Message, MessageKind
from circa_train.gc.protocol.ot import (
    COLUMNS,
    EvaluatorTransfer,
    GarblerTransfer,
    transpose,
    transpose_by_words,
)

#: A point on the curve of order 8, the neutral element, and the order of the base field as a non-canonical
#: zero.
SMALL_ORDER = bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a")
INVALID_POINTS = {
    "neutral element": (1).to_bytes(32, "little"),
    "small order": SMALL_ORDER,
    "not canonical": (2**255 - 19).to_bytes(32, "little"),
    "off the curve": (2).to_bytes(32, "little"),
    "outside the subgroup": sodium.crypto_core_ed25519_add(
        sodium.crypto_scalarmult_ed25519_base_noclamp((5).to_bytes(32, "little")), SMALL_ORDER
    ),
}


def connected(seed=7):
    """(garbler's side, evaluator's side, offset), base transfers done."""
    offset = Garbler(seed=seed).offset
    garbler, evaluator = (
        GarblerTransfer(offset, Randomness(seed, "g")),
        EvaluatorTransfer(Randomness(seed, "e")),
    )
    evaluator.setup(garbler.setup(evaluator.hello()))
    return garbler, evaluator, offset


def test_base_transfers_give_the_chosen_seed_and_no_other():
    choices = np.random.default_rng(0).random(40) < 0.5
    sender = BaseSender(40, Randomness(None, "s"))
    reply, chosen = BaseReceiver(choices, Randomness(None, "r")).reply(sender.message())
    pairs = sender.seeds(reply)
    for choice, seed, pair in zip(choices, chosen, pairs, strict=True):
        assert seed == pair[int(choice)]
        assert seed != pair[1 - int(choice)]
    assert len({seed for pair in pairs for seed in pair}) == 80


def test_the_evaluator_holds_q_or_q_with_the_offset():
    garbler, evaluator, offset = connected()
    rng = np.random.default_rng(1)
    blocks_seen = []
    for transfers in (1, 7, 8, 9, 1000, 3):
        choices = rng.random(transfers) < 0.5
        message, own = evaluator.extend(choices)
        assert len(message.payload) == 16 * 8 * ((transfers + 7) // 8), (
            "16 bytes per transfer, rounded up to whole bytes"
        )
        false_labels = garbler.extend(Message.from_bytes(message.to_bytes()), transfers)
        assert own.shape == false_labels.shape == (transfers, 2)
        assert (own == false_labels ^ np.where(choices[:, None], offset, np.uint64(0))).all()
        blocks_seen += own.tolist()
    assert len({tuple(block) for block in blocks_seen}) == len(blocks_seen), "blocks never repeat"


def test_what_the_garbler_sees_does_not_depend_on_the_choices():
    """Matrices for all-zero and all-one choices: bits look fair either way, within 5 sigma, and a bare matrix
    does not.
    """
    draws = COLUMNS * 8000
    for choice in (False, True):
        _, evaluator, _ = connected(seed=None)
        message, _ = evaluator.extend(np.full(8000, choice))
        ones = int(np.unpackbits(message.payload).sum())
        assert abs(ones - draws / 2) < 5 * math.sqrt(draws) / 2
    bare = COLUMNS * 8000  # an unmasked matrix of ones
    assert abs(bare - draws / 2) > 5 * math.sqrt(draws) / 2


@pytest.mark.parametrize("width", [1, 5, 16, 33, 8192, 20_000])  # in one piece, and in several
def test_transpose(width):
    columns = np.random.default_rng(width).integers(0, 256, (COLUMNS, width), dtype=np.uint8)
    bits = np.unpackbits(columns, axis=1, bitorder="little")
    want = np.packbits(np.ascontiguousarray(bits.T), axis=1, bitorder="little")
    assert (transpose(columns).view(np.uint8) == want).all()
    gaps = np.zeros((COLUMNS, width + 15), dtype=np.uint8)[:, :width]  # as the streams leave them
    gaps[:] = columns
    assert (transpose(gaps).view(np.uint8) == want).all()
    rows = np.empty((width, 8, COLUMNS // 8), dtype=np.uint8)
    transpose_by_words(gaps, rows)
    assert (rows.reshape(-1, COLUMNS // 8) == want).all()


#: sha256 of every payload that both sides send for seed 7 and 100 transfers of alternating choices.
GOLDEN_TRANSCRIPT = "994ad6b0f0aaf1c95fbff9ae36bfe6f1f374628cb7955bcdab25b3dd6df84bb9"


def test_the_transcript_of_a_seed_is_golden():
    offset = Garbler(seed=7, kernel="numpy").offset
    garbler, evaluator = GarblerTransfer(offset, Randomness(7, "g")), EvaluatorTransfer(Randomness(7, "e"))
    hello = evaluator.hello()
    reply = garbler.setup(hello)
    evaluator.setup(reply)
    matrix, _ = evaluator.extend(np.arange(100) % 2 == 1)
    assert (
        hashlib.sha256(b"".join(m.payload.tobytes() for m in (hello, reply, matrix))).hexdigest()
        == GOLDEN_TRANSCRIPT
    )


@pytest.mark.parametrize("name", INVALID_POINTS)
def test_invalid_points_are_refused(name):
    point = INVALID_POINTS[name]
    sender = BaseSender(2, Randomness(1, "s"))
    receiver = BaseReceiver(np.array([True, False]), Randomness(1, "r"))
    with pytest.raises(ValueError, match="prime-order group"):
        receiver.reply(Message(MessageKind.BASE_OT_POINT, np.frombuffer(point, np.uint8)))
    good = sender.message().payload.tobytes()
    with pytest.raises(ValueError, match="point 1"):
        sender.seeds(Message(MessageKind.BASE_OT_CHOICES, np.frombuffer(good + point, np.uint8)))


def test_wrong_lengths_and_order_are_refused():
    garbler, evaluator, offset = connected()
    message, _ = evaluator.extend(np.zeros(100, bool))
    with pytest.raises(ValueError, match="payload has"):
        garbler.extend(message, 200)
    with pytest.raises(ValueError, match="payload has"):
        garbler.extend(replace(message, payload=message.payload[:-1]), 100)
    with pytest.raises(ValueError, match="out of step"):
        garbler.extend(evaluator.hello(), 100)
    with pytest.raises(ValueError, match="at least 1"):
        evaluator.extend(np.zeros(0, bool))
    with pytest.raises(ValueError, match="payload has"):
        BaseSender(3, Randomness(1)).seeds(
            Message(MessageKind.BASE_OT_CHOICES, np.zeros(2 * POINT_BYTES, np.uint8))
        )
    with pytest.raises(RuntimeError, match="base transfers come first"):
        GarblerTransfer(offset, Randomness(1)).extend(message, 100)
    with pytest.raises(RuntimeError, match="base transfers come first"):
        EvaluatorTransfer(Randomness(1)).extend(np.zeros(8, bool))
