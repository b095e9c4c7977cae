"""Shares of a linear layer by additively homomorphic encryption: the client gets W r - t, and nothing else.

    client, once    key = Client().public_key                     to the server
    client          request = client.request(shape, r)            r, encrypted
    server          answer = server.answer(shape, W, t, request)
    client          client.result(shape, answer)                  (W r - t) mod p

r is the client's share of the layer's input, W the server's integer weights, t the server's mask of the
output, all modulo p. Neither party learns the other's numbers; both are assumed honest but curious. The
layout is that of :mod:`circa_train.pi.packing`, the scheme that of :mod:`circa_train.pi.bfv`.

**What keeps the weights secret.** The client can decrypt, so all that it is told must be independent of W,
given W r - t. The server does five things, in this order:

1. *Re-randomises*: adds a fresh encryption of zero under the client's public key. Without it the second
   polynomial would be W times the one that the client sent.
2. *Masks*: subtracts t where results are, and fresh uniform numbers at every other coefficient, where the
   product holds sums of the same weights that are no results.
3. *Floods the noise* where results are: see :mod:`circa_train.pi.bfv` for how much, and why it is enough.
4. *Goes over to the first prime*, after all that: it rounds, and how it rounds would depend on the weights
   before. What it drops is noise.
5. *Leaves out* the coefficients of the first polynomial that hold no results. The client can then not decrypt
   them. It also makes the message smaller by nearly a half.

**Messages** have a fixed length for a layer, known to both before (:mod:`circa_train.pi.he_messages`). A
request names its second polynomials by the seed that they are drawn from.

Products with a tile of weights that is all zero are left out, so the time tells how many those are. SEAL's
Python package keeps the interpreter's lock while it computes: threads do not make this faster, processes do.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np

from circa_train.field import DEFAULT_PRIME, to_centred
from circa_train.pi import bfv
from circa_train.pi.bfv import DEGREE, Scheme, Words, pack_words, unpack_words
from circa_train.pi.he_messages import (
    KEY_BYTES,
    UP_BYTES,
    Messages,
    check_words,
    pack_polynomial,
    packing_of,
    traffic,
    unpack_polynomial,
)
from circa_train.pi.linear_shape import LinearShape
from circa_train.pi.packing import Integers, Packing


def _seeded(scheme: Scheme, seed: bytes, number: int) -> Words:
    """The second polynomial, in NTT form, of ciphertext ``number`` of a request: (primes, N)."""
    draw = bfv.stream(seed, number)
    return np.stack([bfv.uniform(draw, modulus, DEGREE) for modulus in scheme.moduli])


class Client:
    """The party that has the secret key. One per inference or per session; the key never leaves it."""

    def __init__(self, prime: int = DEFAULT_PRIME) -> None:
        self._scheme = scheme = Scheme(prime)
        self._messages = Messages(scheme)
        keys = scheme.seal.KeyGenerator(scheme.context)
        secret = keys.secret_key()
        self._encryptor = scheme.seal.Encryptor(scheme.context, secret)
        self._decryptor = scheme.seal.Decryptor(scheme.context, secret)
        self._secret = scheme.secret_factor(secret)
        words = scheme.public_key_words(keys.create_public_key())
        body = b"".join(pack_polynomial(half, (*bfv.WIDTHS, bfv.OWN_WIDTH)) for half in words)
        #: What the server needs.
        self.public_key = self._messages.write("public key", None, body)

    def request(self, shape: LinearShape, share: Integers) -> bytes:
        """The client's share of the layer's input, encrypted. Two requests for one share are independent.

        Raises:
            ValueError: if ``share`` has another shape than the layer's input, or numbers outside [0, p); or
                naming a layer that does not fit.
        """
        packing = packing_of(shape)
        _check_numbers("share", share, shape.input_shape, 0, self._scheme.prime)
        seed = os.urandom(bfv.SEED_BYTES)
        parts = [seed]
        for number, polynomial in enumerate(packing.input_polynomials(share).reshape(-1, DEGREE)):
            first = self._encrypted(polynomial, _seeded(self._scheme, seed, number))
            parts.append(pack_polynomial(first, bfv.WIDTHS))
        return self._messages.write("request", packing, b"".join(parts))

    def _encrypted(self, polynomial: Integers, second: Words) -> Words:
        """The first polynomial of an encryption whose second one is given: from SEAL's own encryption
        (a, b), whose phase a + b s it keeps: a + (b - second) s.
        """
        scheme = self._scheme
        ciphertext = self._encryptor.encrypt_symmetric(scheme.plaintext(polynomial))
        words = scheme.words(scheme.evaluator.transform_to_ntt(ciphertext))
        moduli = np.array(scheme.moduli, np.uint64)[:, None]
        difference = (words[1] + (moduli - second)) % moduli
        pair = scheme.ciphertext(np.stack([difference, difference]), ntt=True)
        product = scheme.words(scheme.evaluator.multiply_plain(pair, self._secret))
        return (words[0] + product[0]) % moduli

    def result(self, shape: LinearShape, answer: bytes) -> Integers:
        """(W r - t) mod p in [0, p), of the layer's output shape.

        Raises:
            HomomorphicError: if ``answer`` is not the server's answer for this layer, whole and undamaged.
        """
        packing = packing_of(shape)
        body = self._messages.read("answer", packing, answer, traffic(shape).bytes_down)
        modulus, width = self._scheme.moduli[0], bfv.WIDTHS[0]
        words = check_words("answer", unpack_words(body, width), modulus)
        output = np.empty((shape.outputs, shape.output_rows, shape.output_columns), np.int64)
        for output_tile, row_tile in np.ndindex(packing.output_tiles, packing.row_tiles):
            index, place = packing.results(output_tile, row_tile)
            pair = np.zeros((2, 1, DEGREE), np.uint64)
            pair[0, 0, index.ravel()], pair[1, 0], words = np.split(words, [index.size, index.size + DEGREE])
            plain = self._decryptor.decrypt(self._scheme.ciphertext(pair, ntt=False))
            output[place] = self._scheme.coefficients(plain)[index]
        return output.reshape(shape.output_shape)


class Server:
    """The party that has the weights.

    Raises:
        HomomorphicError: if ``public_key`` is not a client's, whole and undamaged, for this prime.
    """

    def __init__(self, public_key: bytes, prime: int = DEFAULT_PRIME) -> None:
        self._scheme = scheme = Scheme(prime)
        self._messages = Messages(scheme)
        body = self._messages.read("public key", None, public_key, KEY_BYTES)
        widths, moduli = (*bfv.WIDTHS, bfv.OWN_WIDTH), (*scheme.moduli, scheme.own_modulus)
        half = len(body) // 2
        halves = [
            unpack_polynomial("public key", part, widths, moduli) for part in (body[:half], body[half:])
        ]
        self._encryptor = scheme.seal.Encryptor(scheme.context, scheme.public_key(np.stack(halves)))

    def answer(self, shape: LinearShape, weights: Integers, mask: Integers, request: bytes) -> bytes:
        """The encryption of (W r - t) mod p.

        Args:
            shape: of the layer.
            weights: W, of the layer's weight shape: integers of any size, taken modulo p.
            mask: t, of the layer's output shape, uniform on [0, p). One t masks one answer only.
            request: the client's message.

        Raises:
            ValueError: if ``weights`` or ``mask`` has another shape, or ``mask`` numbers outside [0, p).
            HomomorphicError: if ``request`` is not a client's request for this layer, whole and undamaged.
        """
        _check_numbers("mask", mask, shape.output_shape, 0, self._scheme.prime)
        _check_numbers("weights", weights, shape.weight_shape, -(2**63), 2**63)
        packing, parts = packing_of(shape), []
        for output_tile, row_tile, words in self._ciphertexts(packing, weights, mask, request):
            index, _ = packing.results(output_tile, row_tile)
            shown = np.concatenate([words[0, 0, index.ravel()], words[1, 0]])
            parts.append(pack_words(shown, bfv.WIDTHS[0]))
        return self._messages.write("answer", packing, b"".join(parts))

    def _ciphertexts(
        self, packing: Packing, weights: Integers, mask: Integers, request: bytes
    ) -> Iterator[tuple[int, int, Words]]:
        """Each ciphertext after step 4 of the module's text: (output tile, row tile, numbers), in order."""
        scheme, evaluator = self._scheme, self._scheme.evaluator
        inputs = self._inputs(packing, request)
        weights = to_centred(weights.astype(np.int64), scheme.prime)
        mask = mask.reshape(packing.shape.outputs, packing.shape.output_rows, packing.shape.output_columns)
        for output_tile in range(packing.output_tiles):
            sums = [None] * packing.row_tiles
            for input_tile in range(packing.input_tiles):
                polynomial = packing.weight_polynomial(weights, output_tile, input_tile)
                if polynomial is None or not (polynomial % scheme.prime).any():
                    continue
                factor = scheme.factor(polynomial)
                for row_tile in range(packing.row_tiles):
                    product = evaluator.multiply_plain(inputs[row_tile, input_tile], factor)
                    if sums[row_tile] is None:
                        sums[row_tile] = product
                    else:
                        evaluator.add_inplace(sums[row_tile], product)
            for row_tile, total in enumerate(sums):
                index, place = packing.results(output_tile, row_tile)
                fresh = self._encryptor.encrypt_zero()
                if total is not None:
                    evaluator.add_inplace(fresh, evaluator.transform_from_ntt(total))
                masks = bfv.uniform(os.urandom, scheme.prime, DEGREE).astype(np.int64)
                masks[index] = mask[place]
                evaluator.sub_plain_inplace(fresh, scheme.plaintext(masks))
                flooded = scheme.ciphertext(scheme.flood(scheme.words(fresh), index.ravel()), ntt=False)
                last = scheme.context.last_parms_id()
                yield output_tile, row_tile, scheme.words(evaluator.mod_switch_to(flooded, last))

    def _inputs(self, packing: Packing, request: bytes) -> dict[tuple[int, int], object]:
        """The request's ciphertexts in NTT form, by (row tile, input tile)."""
        body = self._messages.read("request", packing, request, traffic(packing.shape).bytes_up)
        seed, body = bytes(body[: bfv.SEED_BYTES]), body[bfv.SEED_BYTES :]
        inputs = {}
        for number in range(packing.row_tiles * packing.input_tiles):
            part = body[number * UP_BYTES : (number + 1) * UP_BYTES]
            first = unpack_polynomial("request", part, bfv.WIDTHS, self._scheme.moduli)
            pair = np.stack([first, _seeded(self._scheme, seed, number)])
            inputs[divmod(number, packing.input_tiles)] = self._scheme.ciphertext(pair, ntt=True)
        return inputs


def _check_numbers(name: str, numbers: Integers, shape: tuple[int, ...], low: int, high: int) -> None:
    if numbers.shape != shape or numbers.dtype.kind not in "iu":
        raise ValueError(f"{name} must be integers of shape {shape}, got {numbers.dtype} of {numbers.shape}")
    if int(numbers.min()) < low or int(numbers.max()) >= high:
        raise ValueError(f"{name} must lie in [{low}, {high}), got {numbers.min()} to {numbers.max()}")
