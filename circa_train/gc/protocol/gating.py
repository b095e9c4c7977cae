"""Multiplying a garbled sign bit s with a shared value, without a triple: s x = s x_s + s x_c.

The server garbled the bit and holds x_s; the client evaluated it, holds x_c and one of the two labels of the
bit's wire, of colour v = s ^ c, where c is the colour of the false label. The server knows c, the client v.

*s x_s* is a projection whose payload is known late. With pads M0 and M1 of the false and the true label (M of
a label is its hash in Z_p) the server sends one word; the client takes M of its label, plus the word if that
label has colour 1:

    c = 0    word M0 + x_s - M1, the server keeps      - M0
    c = 1    word M1 - x_s - M0, the server keeps  x_s - M1

In each case the client's outcome and what the server keeps add up to s x_s, and the word is masked by the pad
of the label that the client lacks.

*s x_c* = v x_c + c (1 - 2v) x_c is a product of c, which the server knows before anything starts, and of a
number that the client knows: a correlated transfer in the reverse direction, in which the server chooses with
c (:func:`send_product`, :func:`take_product`). So all that depends on labels is made offline, and the product
costs 4 bytes down, and 4 bytes up for the transfer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from circa_train.gc.aes.hashing import Kernel, to_field
from circa_train.gc.aes.key_schedule import Blocks

Elements = NDArray[np.int64]

#: What the server sends per product, and what the client sends for the transfer.
WORD_BYTES = 4


def pads(kernel: Kernel, blocks: Blocks, tweak: int, first_instance: int, prime: int) -> Elements:
    """Elements of Z_p, uniform to whoever lacks the (n, 2) blocks."""
    return to_field(kernel.tccr_hash(np.ascontiguousarray(blocks), tweak, first_instance), prime)


def both_pads(
    kernel: Kernel, blocks: Blocks, offset: Blocks, tweak: int, first_instance: int, prime: int
) -> tuple[Elements, Elements]:
    """The pads of blocks and of blocks ^ offset: of the false and the true label, or of choices 0 and 1."""
    return (
        pads(kernel, blocks, tweak, first_instance, prime),
        pads(kernel, blocks ^ offset, tweak, first_instance, prime),
    )


@dataclass(frozen=True, eq=False)
class GarbledBits:
    """What the garbler knows of garbled bits, for one product with each.

    Attributes:
        prime: the field.
        colour: c, bool (n,): the colours of the false labels.
        if_false, if_true: M0 and M1.
    """

    prime: int
    colour: NDArray[np.bool_]
    if_false: Elements
    if_true: Elements

    def project(self, factor: Elements) -> tuple[Elements, Elements]:
        """(words for the client, the server's shares of s times ``factor``), both canonical."""
        plain = self.if_false + factor - self.if_true
        words = np.where(self.colour, -plain, plain) % self.prime
        share = np.where(self.colour, factor - self.if_true, -self.if_false) % self.prime
        return words, share


def own_part(colour: NDArray[np.bool_], factor: Elements) -> tuple[Elements, Elements]:
    """Of s x_c: (v x_c, which the client computes itself; (1 - 2v) x_c, which is to be multiplied with c)."""
    return np.where(colour, factor, 0), np.where(colour, -factor, factor)


def send_product(number: Elements, pads: tuple[Elements, Elements], prime: int) -> tuple[Elements, Elements]:
    """(the words to send, the own share) of a choice times ``number``, from the pads of choices 0 and 1.

    Whoever chooses holds one pad: h0, or h1 to which it adds the words h0 - h1 + number.
    """
    return (pads[0] - pads[1] + number) % prime, -pads[0] % prime


def take_product(words: Elements, choice: NDArray[np.bool_], pad: Elements, prime: int) -> Elements:
    """The other share of that product, from the pad of the own choice."""
    return np.where(choice, pad + words, pad) % prime
