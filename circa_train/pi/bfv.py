"""SEAL's BFV scheme for one prime: parameters, randomness, and ciphertexts as the numbers they consist of.

SEAL's Python package has no operation for three things that the protocol needs: adding large noise, sending
half a ciphertext, and naming a polynomial by the seed that it was drawn from. They are easy on the numbers
themselves. A ciphertext is two polynomials, modulo each of a few primes; SEAL writes it as a fixed head and
then these numbers, 8 bytes each, uncompressed. :class:`Scheme` takes the head from an object of its own, and
reads and writes the numbers. So no byte of a peer is ever parsed by SEAL, only numbers that were checked.

**Parameters.** N = 8192; the plaintext modulus is p, of up to 31 bits; ciphertexts are computed modulo three
primes of 56, 48 and 48 bits, and answers are sent modulo the first alone. SEAL wants one more prime, for
operations not used here; it has 17 bits. Together 169 bits, where 218 are allowed for 128-bit security.

**Noise.** An answer's noise depends on the weights: they multiply the noise of the request, which the client
knows. So the server adds noise drawn uniformly from 2^104 numbers. A request's noise is at most 21 in every
coefficient, and rounding adds at most 1/2; weights are at most p/2 in magnitude. With at most
:data:`MOST_WEIGHTS` = 2^16 weights to a result's polynomials, a product's noise is below
2^16 2^30 21.5 < 2^50.5; the server's own encryption of zero adds less than 2^14. Shifting a uniform choice
from 2^104 numbers by that much changes it by a statistical distance below 2^-53; for all the N = 2^13
coefficients of a ciphertext together it is below 2^-40 (:data:`STATISTICAL_BITS`). Distances of several
ciphertexts add up. For weights below 2^12 and all 31 convolutions of a ResNet-32 the sum is below 2^-56.

What remains for decryption is :meth:`Scheme.flooded_budget`. It is measured whenever a scheme is made, and
must be 12 bits at least.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from circa_train.field import DEFAULT_PRIME, check_prime

Words = npt.NDArray[np.uint64]

DEGREE = 8192
#: Bytes of a number modulo each prime of a ciphertext, and modulo SEAL's own one.
WIDTHS = (7, 6, 6)
#: Of SEAL's own prime.
OWN_WIDTH, OWN_BITS = 3, 17

#: Random bytes of the noise that is added to one coefficient.
FLOOD_BYTES = 13
#: Most weights in all the polynomials whose products are summed for one answer.
MOST_WEIGHTS = 2**16
#: The noise of a ciphertext, with some weights or with others, differs by a statistical distance of 2^-40 at
#: most.
STATISTICAL_BITS = 40
#: Bits of noise budget that an answer must have left.
SMALLEST_BUDGET = 12

SEED_BYTES = 32


class HomomorphicError(ValueError):
    """A message or a prime that homomorphic encryption cannot take; the text says which and why."""


def load_seal() -> Any:
    """The module of SEAL.

    Raises:
        ImportError: naming the extra, if it is not installed.
    """
    try:
        import seal
    except ImportError:
        seal = None
    if not hasattr(seal, "SEALContext"):
        raise ImportError("homomorphic encryption needs SEAL: pip install 'circa_train[homomorphic]'")
    return seal


def pack_words(words: Words, width: int) -> bytes:
    """Numbers below 2^(8 width) as ``width`` bytes each, the lowest first.

    Inverse of :func:`unpack_words`.
    """
    return np.ascontiguousarray(words).view(np.uint8).reshape(-1, 8)[:, :width].tobytes()


def unpack_words(data: bytes | memoryview, width: int) -> Words:
    wide = np.zeros((len(data) // width, 8), np.uint8)
    wide[:, :width] = np.frombuffer(data, np.uint8).reshape(-1, width)
    return wide.view(np.uint64).ravel()


def _last_words(data: bytes, polynomials: int) -> Words:
    """What SEAL wrote after the head of an object: the numbers of that many polynomials."""
    return np.frombuffer(data[-8 * polynomials * DEGREE :], np.uint64).reshape(polynomials, DEGREE)


def uniform(draw: Callable[[int], bytes], modulus: int, count: int) -> Words:
    """Numbers uniform on [0, modulus), exactly: random words as long as the modulus, without those too large.

    Args:
        draw: gives that many uniform bytes, always new ones.
    """
    bits = (modulus - 1).bit_length()
    width, found, missing = -(-bits // 8), [], count
    while missing:
        words = unpack_words(draw(missing * width), width) & np.uint64(2**bits - 1)
        found.append(words[words < modulus])
        missing -= len(found[-1])
    return np.concatenate(found) if found else np.zeros(0, np.uint64)


def stream(seed: bytes, number: int) -> Callable[[int], bytes]:
    """Uniform bytes from a public seed, the same for both parties: AES-256 in counter mode."""
    cipher = Cipher(algorithms.AES(seed), modes.CTR((number << 64).to_bytes(16, "big"))).encryptor()
    return lambda count: cipher.update(bytes(count))


class Scheme:
    """SEAL with the parameters above, for one prime.

    Raises:
        ImportError: if SEAL is not installed.
        HomomorphicError: if SEAL refuses the prime, or the noise budget measured after flooding is too small.
    """

    def __init__(self, prime: int = DEFAULT_PRIME) -> None:
        self.seal, self.prime = load_seal(), check_prime(prime)
        seal = self.seal
        parameters = seal.EncryptionParameters(seal.scheme_type.bfv)
        parameters.set_poly_modulus_degree(DEGREE)
        chain = seal.CoeffModulus.Create(DEGREE, [*(8 * width for width in WIDTHS), OWN_BITS])
        parameters.set_coeff_modulus(chain)
        parameters.set_plain_modulus(self.prime)
        self.context = seal.SEALContext(parameters)
        if not self.context.parameters_set():
            raise HomomorphicError(
                f"prime = {prime}: SEAL refuses it as a plaintext modulus "
                f"({self.context.parameter_error_name()}); use another, such as the default {DEFAULT_PRIME}"
            )
        *moduli, self.own_modulus = (modulus.value() for modulus in chain)
        self.moduli = tuple(moduli)
        self.evaluator = seal.Evaluator(self.context)
        self._column = np.array(self.moduli, np.uint64)[:, None]
        if (budget := self.flooded_budget()) < SMALLEST_BUDGET:
            raise HomomorphicError(
                f"prime = {prime}: {budget} bits of noise budget are left after flooding, "
                f"and {SMALLEST_BUDGET} are needed"
            )

    # Plaintexts

    @functools.cached_property
    def _plain_head(self) -> bytes:
        return self.seal.Plaintext(DEGREE).to_bytes()[: -8 * DEGREE]

    def plaintext(self, coefficients: npt.NDArray[Any]) -> Any:
        """The polynomial with these N coefficients in [0, p). Inverse of :meth:`coefficients`."""
        plain = self.seal.Plaintext()
        plain.load_bytes(self.context, self._plain_head + coefficients.astype(np.uint64).tobytes())
        return plain

    def coefficients(self, plain: Any) -> npt.NDArray[np.int64]:
        count = plain.coeff_count()  # SEAL leaves out zeros at the end
        numbers = np.zeros(DEGREE, np.int64)
        numbers[:count] = np.frombuffer(plain.to_bytes()[-8 * count :], np.int64)
        return numbers

    def factor(self, coefficients: npt.NDArray[Any]) -> Any:
        """A polynomial with N signed coefficients as ciphertexts in NTT form are multiplied with it."""
        plain = self.plaintext(coefficients % self.prime)
        return self.evaluator.transform_to_ntt(plain, self.context.first_parms_id())

    # Ciphertexts

    @staticmethod
    def words(ciphertext: Any) -> Words:
        """Its numbers: (2 polynomials, primes, N). Inverse of :meth:`ciphertext`."""
        return _last_words(ciphertext.to_string(), 2 * ciphertext.coeff_modulus_size()).reshape(2, -1, DEGREE)

    @functools.cached_property
    def _heads(self) -> dict[tuple[int, bool], bytes]:
        heads = {}
        keys = self.seal.KeyGenerator(self.context)
        encryptor = self.seal.Encryptor(self.context, keys.create_public_key(), keys.secret_key())
        full = encryptor.encrypt_symmetric(self.seal.Plaintext(DEGREE))
        last = self.evaluator.mod_switch_to(full, self.context.last_parms_id())
        for example, ntt in (full, False), (self.evaluator.transform_to_ntt(full), True), (last, False):
            count = 2 * example.coeff_modulus_size() * DEGREE
            heads[example.coeff_modulus_size(), ntt] = example.to_string()[: -8 * count]
        return heads

    def ciphertext(self, words: Words, ntt: bool) -> Any:
        """Of numbers below their primes: (2, primes, N) with all primes or the first alone."""
        ciphertext = self.seal.Ciphertext()
        ciphertext.load_bytes(self.context, self._heads[words.shape[1], ntt] + words.tobytes())
        return ciphertext

    # Keys

    def public_key_words(self, key: Any) -> Words:
        """The numbers of a public key: (2, primes and SEAL's own, N). Inverse of :meth:`public_key`."""
        return _last_words(key.to_string(), 2 * len(WIDTHS) + 2).reshape(2, -1, DEGREE)

    def public_key(self, words: Words) -> Any:
        own = self.seal.KeyGenerator(self.context).create_public_key().to_string()
        return self.context.from_public_str(own[: -8 * words.size] + words.tobytes())

    def secret_factor(self, key: Any) -> Any:
        """The secret key as ciphertexts in NTT form are multiplied with it."""
        head = self.factor(np.arange(DEGREE) == 0).to_bytes()[: -8 * len(WIDTHS) * DEGREE]
        words = _last_words(key.to_string(), len(WIDTHS) + 1)[: len(WIDTHS)]
        plain = self.seal.Plaintext()
        plain.load_bytes(self.context, head + words.tobytes())
        return plain

    # Noise

    def flood(self, words: Words, index: npt.NDArray[np.int64] | slice) -> Words:
        """The numbers of a ciphertext, all primes and not in NTT form, with noise added at some coefficients:
        uniform on [-2^103, 2^103).
        """
        flooded = words.copy()
        target = flooded[0][:, index]
        random = np.frombuffer(os.urandom(FLOOD_BYTES * target.shape[1]), np.uint8).reshape(-1, FLOOD_BYTES)
        noise = unpack_words(random[:, :7].tobytes(), 7) % self._column
        for byte in random[:, 7:].T:  # primes have at most 56 bits, so no step leaves 64
            noise = (noise * np.uint64(256) + byte) % self._column
        middle = np.array([2 ** (8 * FLOOD_BYTES - 1) % modulus for modulus in self.moduli], np.uint64)[
            :, None
        ]
        flooded[0][:, index] = (target + noise + (self._column - middle)) % self._column
        return flooded

    def flooded_budget(self) -> int:
        """Bits of noise budget of a ciphertext whose every coefficient was flooded, as it is sent, measured
        with keys made for that. What a layer's own noise takes is less than a thousandth of a bit.
        """
        keys = self.seal.KeyGenerator(self.context)
        encryptor = self.seal.Encryptor(self.context, keys.create_public_key(), keys.secret_key())
        words = self.flood(self.words(encryptor.encrypt_zero()), slice(None))
        sent = self.evaluator.mod_switch_to(self.ciphertext(words, False), self.context.last_parms_id())
        return int(self.seal.Decryptor(self.context, keys.secret_key()).invariant_noise_budget(sent))
