"""The rescaling by messages: equal to the law for every value and mask, alone and inside a ReLU."""

from __future__ import annotations

import numpy as np
import pytest

from circa_train.field import DEFAULT_PRIME, share
from circa_train.gc.circuits.relu import ReluCircuit
from circa_train.gc.protocol.messages import Message, MessageKind
from circa_train.gc.protocol.rescaling import Rescaling
from circa_train.gc.protocol.session import rescale_in_memory, run_in_memory, run_over_loopback
from circa_train.rescaling import offset_rescale


def everything(prime: int) -> tuple[np.ndarray, np.ndarray]:
    limit = prime // 2
    x, r = np.meshgrid(np.arange(-limit, limit + 1), np.arange(prime))
    return x.reshape(-1), r.reshape(-1)


@pytest.mark.parametrize(("prime", "bits"), [(61, 2), (67, 3), (251, 4)])
def test_the_messages_do_what_the_law_says_for_every_value_and_mask(prime, bits):
    x, r = everything(prime)
    server_share, _ = share(x, r, prime)
    outcome = rescale_in_memory(Rescaling(prime, bits), server_share, r, seed=1)
    assert np.array_equal(outcome.y, offset_rescale(x, r, bits, prime))
    inside = np.abs(x) < prime / 4
    assert (np.abs(outcome.y - x / 2**bits)[inside] < 1).all()
    assert (np.abs(outcome.y - x / 2**bits)[~inside] > 1).any()


@pytest.mark.parametrize("mode", ["poszero", "negpass"])
def test_a_relu_truncates_and_then_multiplies_in_its_own_round_trip(mode):
    prime, bits = 67, 2
    x, t = everything(prime)
    relu = ReluCircuit("truncated", prime, 3, mode)
    server_share, _ = share(x, t, prime)
    plain = run_in_memory(relu, server_share, t, seed=1)
    outcome = run_in_memory(relu, server_share, t, bits=bits, seed=1)
    gate = relu.cleartext(server_share, t)
    assert np.array_equal(plain.y, x * gate)
    assert np.array_equal(outcome.y, gate * offset_rescale(x, t, bits, prime))
    # One message more, from the server, in a trip that is there anyway: 4 bytes per value, 16 of transfer.
    extra = outcome.server_traffic.sent[MessageKind.CORRECTION]
    chunks = -(-len(x) // 2048)
    assert 0 < extra - 4 * len(x) <= 128 * chunks
    assert outcome.client_traffic.sent.keys() == plain.client_traffic.sent.keys()
    sent = [o.client_traffic.sent[MessageKind.OT_EXTENSION] for o in (plain, outcome)]
    assert abs(sent[1] - sent[0] - 16 * len(x)) <= 128 * chunks


def test_at_the_default_prime_over_a_socket():
    random = np.random.default_rng(0)
    quarter = DEFAULT_PRIME // 4
    x = np.concatenate([random.integers(-quarter, quarter + 1, 300), [0, 1, -1, quarter, -quarter]])
    t = random.integers(0, DEFAULT_PRIME, len(x))
    relu = ReluCircuit("truncated", DEFAULT_PRIME, 12, "poszero")
    server_share, _ = share(x, t, DEFAULT_PRIME)
    outcome = run_over_loopback(relu, server_share, t, bits=13, seed=1, chunk=128)
    wanted = relu.cleartext(server_share, t) * offset_rescale(x, t, 13, DEFAULT_PRIME)
    assert np.array_equal(outcome.y, wanted)


def test_a_correction_looks_uniform_whatever_the_value():
    """z is masked by a pad: over sessions, for one x and one mask, it is spread over the field."""
    prime, sessions = 61, 610
    rescaling = Rescaling(prime, 2)
    counts = np.zeros(prime)
    x, r = np.full(sessions, 7), np.full(sessions, 50)
    seen: list[int] = []
    original = Rescaling.correct

    def watch(self, correction, pads):
        message, own = original(self, correction, pads)
        seen.extend(message.payload.view("<u4").tolist())
        return message, own

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rescaling, "correct", watch)
        rescale_in_memory(rescaling, share(x, r, prime)[0], r, seed=3)
    np.add.at(counts, seen, 1)
    chi_square = ((counts - sessions / prime) ** 2 / (sessions / prime)).sum()
    assert chi_square < 60 + 5 * np.sqrt(2 * 60)  # 60 degrees of freedom, five standard deviations


def test_refusals():
    for bits in (0, 29):
        with pytest.raises(ValueError, match=rf"bits to drop = {bits} is outside \[1, 28\]"):
            Rescaling(DEFAULT_PRIME, bits)
    rescaling = Rescaling(251, 3)
    damaged = Message(MessageKind.CORRECTION, np.array([251], dtype="<u4").view(np.uint8))
    with pytest.raises(ValueError, match="251, which is no element of Z_251"):
        rescaling.corrected(damaged, np.array([True]), np.array([0]))
    with pytest.raises(ValueError, match="computes y itself"):
        run_in_memory(ReluCircuit("full", 251, 0), np.array([1]), np.array([1]), bits=3)
