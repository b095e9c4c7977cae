"""Multiplication of shares, for every operand and share of tiny primes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from circa_train.field import DEFAULT_PRIME
from circa_train.gc.protocol.beaver import Multiplication, TrustedDealer
from circa_train.gc.protocol.messages import Message, MessageKind


def product(prime, server_x, client_x, server_s, client_s, seed=None):
    for_server, for_client = TrustedDealer(prime, seed).deal(len(server_x))
    server = Multiplication(server_x, server_s, for_server.take(len(server_x)), leads=True)
    client = Multiplication(client_x, client_s, for_client.take(len(server_x)), leads=False)
    there = Message.from_bytes(server.opening().to_bytes())
    back = Message.from_bytes(client.opening().to_bytes())
    shares = server.finish(back), client.finish(there)
    for share in shares:
        assert ((share >= 0) & (share < prime)).all()
    return (shares[0] + shares[1]) % prime


@pytest.mark.parametrize("prime", [3, 5, 7])
def test_every_combination_of_shares(prime):
    shares = np.array(list(itertools.product(range(prime), repeat=4)), dtype=np.int64).T
    want = (shares[0] + shares[1]) % prime * ((shares[2] + shares[3]) % prime) % prime
    assert (product(prime, *shares) == want).all()


@pytest.mark.parametrize("prime", [DEFAULT_PRIME, 2**31 - 1])
def test_large_shares_do_not_overflow(prime):
    edges = [0, 1, 2, prime // 2, prime // 2 + 1, prime - 2, prime - 1]
    shares = np.array(list(itertools.product(edges, repeat=4)), dtype=np.int64).T
    want = [(a + b) * (c + d) % prime for a, b, c, d in shares.T.tolist()]
    assert product(prime, *shares).tolist() == want


def test_triples_are_shares_of_products():
    server, client = TrustedDealer(DEFAULT_PRIME).deal(1000)
    pairs = [
        (s + c) % DEFAULT_PRIME for s, c in ((server.a, client.a), (server.b, client.b), (server.c, client.c))
    ]
    a, b, c = (part.tolist() for part in pairs)
    assert all(x * y % DEFAULT_PRIME == z for x, y, z in zip(a, b, c, strict=True))
    assert len(set(a)) > 990, "triples are drawn anew"


def test_triples_are_handed_out_once():
    triples, _ = TrustedDealer(7, seed=1).deal(10)
    assert (triples.take(4).a == triples.a[:4]).all()
    assert (triples.take(6).a == triples.a[4:]).all()
    with pytest.raises(ValueError, match="1 triples wanted, 0 left of 10"):
        triples.take(1)


def test_refusals():
    triples, _ = TrustedDealer(7).deal(4)
    shares = np.zeros(4, dtype=np.int64)
    with pytest.raises(ValueError, match="differ in number"):
        Multiplication(shares, shares[:3], triples, leads=True)
    part = Multiplication(shares, shares, triples, leads=True)
    with pytest.raises(ValueError, match="no element of Z_7"):
        part.finish(Message(MessageKind.OPENING, np.full(8, 7, dtype="<u4").view(np.uint8), instances=4))
    with pytest.raises(ValueError, match="payload has"):
        part.finish(Message(MessageKind.OPENING, np.zeros(28, np.uint8), instances=4))
    with pytest.raises(ValueError, match="prime"):
        TrustedDealer(9)
