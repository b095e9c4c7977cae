"""A bit times a shared value without a triple, for every choice of pads, colour, bit and value of a small
field.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from circa_train.gc.protocol import GarbledBits, own_part, send_product, take_product

P = 7


def test_a_bit_times_the_garblers_value_for_every_pad_and_colour():
    for c, s, m0, m1, x in itertools.product((0, 1), (0, 1), range(P), range(P), range(P)):
        arrays = [np.array([value]) for value in (m0, m1)]
        words, kept = GarbledBits(P, np.array([bool(c)]), *arrays).project(np.array([x]))
        colour = s ^ c  # of the label that the evaluator holds
        outcome = (m1 if s else m0) + colour * int(words[0])
        assert (outcome + int(kept[0])) % P == s * x, (c, s, m0, m1, x)


def test_the_word_is_uniform_whatever_the_evaluator_knows():
    """Over the pad that it lacks, each word comes as often as any other."""
    for c, s, own, x in itertools.product((0, 1), (0, 1), range(P), range(P)):
        words = []
        for other in range(P):
            pads = (other, own) if s else (own, other)
            bits = GarbledBits(P, np.array([bool(c)]), *(np.array([pad]) for pad in pads))
            words.append(int(bits.project(np.array([x]))[0][0]))
        assert sorted(words) == list(range(P)), (c, s, own, x)


def test_a_choice_times_a_number_for_every_pad():
    for choice, h0, h1, number in itertools.product((0, 1), range(P), range(P), range(P)):
        words, sent = send_product(np.array([number]), (np.array([h0]), np.array([h1])), P)
        pad = np.array([h1 if choice else h0])
        taken = take_product(words, np.array([bool(choice)]), pad, P)
        assert (int(sent[0]) + int(taken[0])) % P == choice * number


@pytest.mark.parametrize("colour", [False, True])
def test_the_evaluators_value_is_split_by_its_colour(colour):
    """s x = v x + c (1 - 2 v) x for s = v ^ c."""
    x = np.arange(P)
    own, number = own_part(np.full(P, colour), x)
    for c in (0, 1):
        assert np.array_equal((own + c * number) % P, (int(colour) ^ c) * x % P)
