"""Shares of linear layers by homomorphic encryption: exact, and nothing but W r - t for the client."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from circa_train.field import DEFAULT_PRIME
from circa_train.pi import bfv
from circa_train.pi.bfv import DEGREE, HomomorphicError, Scheme, pack_words, stream, uniform, unpack_words
from circa_train.pi.he_messages import KEY_BYTES, packing_of, traffic
from circa_train.pi.homomorphic import Client, Server
from circa_train.pi.linear_shape import LinearShape

pytest.importorskip("seal", reason="needs the extra `homomorphic`")

PRIME = DEFAULT_PRIME
ROOT = Path(__file__).parents[1]

SHAPES = {
    "3x3": LinearShape(3, 8, 8, 5, (3, 3), padding=(1, 1)),
    "several tiles of both": LinearShape(16, 32, 32, 16, (3, 3), padding=(1, 1)),
    "stride 2": LinearShape(16, 32, 32, 32, (3, 3), (2, 2), (1, 1)),
    "1x1, stride 2": LinearShape(64, 8, 8, 128, (1, 1), (2, 2)),
    "strips of rows": LinearShape(3, 112, 112, 4, (7, 7), (2, 2), (3, 3)),
    "strips of rows, several tiles": LinearShape(2, 100, 90, 3, (3, 3), padding=(1, 1)),
    "groups": LinearShape(16, 16, 16, 24, (3, 3), padding=(1, 1), groups=4),
    "depthwise": LinearShape(32, 16, 16, 32, (3, 3), (2, 2), (1, 1), groups=32),
    "dilation, unequal": LinearShape(4, 12, 20, 6, (3, 2), (1, 2), (2, 0), (2, 3)),
    "padding larger than the window": LinearShape(2, 3, 3, 2, (2, 2), padding=(3, 2)),
    "window larger than the picture": LinearShape(8, 1, 1, 8, (3, 3), padding=(1, 1)),
    "matrix": LinearShape.matrix(10, 64),
    "large matrix": LinearShape.matrix(100, 2048),
}


def multiply(a: np.ndarray, b: np.ndarray, prime: int) -> np.ndarray:
    """a times b modulo p, of canonical numbers below 2^31, without leaving int64."""
    return (a * (b >> 16) % prime * 2**16 + a * (b & 0xFFFF)) % prime


def direct(shape: LinearShape, weights: np.ndarray, x: np.ndarray, prime: int) -> np.ndarray:
    """The layer modulo p, weight by weight over all windows: tested against plain Python below."""
    (sh, sw), (ph, pw), (dh, dw) = shape.stride, shape.padding, shape.dilation
    w = (weights % prime).reshape(shape.outputs, -1, *shape.kernel)
    x = np.pad(x.reshape(shape.channels, shape.height, shape.width), ((0, 0), (ph, ph), (pw, pw)))
    y = np.zeros((shape.outputs, shape.output_rows, shape.output_columns), np.int64)
    per_group = shape.outputs // shape.groups
    for c in range(shape.channels):
        group, of_group = divmod(c, w.shape[1])
        outputs = slice(group * per_group, (group + 1) * per_group)
        for a, b in np.ndindex(*shape.kernel):
            seen = x[c, a * dh :: sh, b * dw :: sw][: shape.output_rows, : shape.output_columns]
            y[outputs] = (y[outputs] + multiply(w[outputs, of_group, a, b, None, None], seen, prime)) % prime
    return y.reshape(shape.output_shape)


def numbers(
    shape: LinearShape, prime: int = PRIME, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights, centred and of any size; the client's share; the server's mask."""
    rng = np.random.default_rng(seed)
    weights = rng.integers(-(prime // 2), prime // 2 + 1, shape.weight_shape)
    return weights, rng.integers(0, prime, shape.input_shape), rng.integers(0, prime, shape.output_shape)


@pytest.fixture(scope="module")
def client() -> Client:
    return Client()


@pytest.fixture(scope="module")
def server(client: Client) -> Server:
    return Server(client.public_key)


def chi_square(values: np.ndarray, prime: int) -> float:
    """Of 16 equal parts of [0, p): mean 15. A uniform sample exceeds 90 with probability 1e-12."""
    counts = np.bincount(values * 16 // prime, minlength=16)
    expected = values.size / 16
    return float(((counts - expected) ** 2 / expected).sum())


def test_the_vectorised_reference_is_the_plain_one() -> None:
    shape = LinearShape(4, 5, 6, 6, (3, 2), (2, 1), (1, 2), (1, 2), groups=2)
    weights, x, _ = numbers(shape)
    padded = np.pad(x, ((0, 0), (1, 1), (2, 2)))
    y = direct(shape, weights, x, PRIME)
    for m, i, j in np.ndindex(*y.shape):
        window = padded[m // 3 * 2 : m // 3 * 2 + 2, 2 * i : 2 * i + 3, j : j + 3 : 2]
        terms = zip(weights[m].ravel().tolist(), window.ravel().tolist(), strict=True)
        assert y[m, i, j] == sum(a * b for a, b in terms) % PRIME


@pytest.mark.parametrize("name", SHAPES)
def test_every_layer_is_exact_and_every_byte_foretold(name: str, client: Client, server: Server) -> None:
    shape = SHAPES[name]
    weights, share, mask = numbers(shape)
    request = client.request(shape, share)
    answer = server.answer(shape, weights, mask, request)
    result = client.result(shape, answer)
    assert result.dtype == np.int64
    np.testing.assert_array_equal(result, (direct(shape, weights, share, PRIME) - mask) % PRIME)
    told = traffic(shape)
    assert (len(request), len(answer), len(client.public_key)) == (told.bytes_up, told.bytes_down, KEY_BYTES)


@pytest.mark.parametrize("prime", [3, 251, 2**31 - 1, 2013265921, 1073741827])
def test_other_primes(prime: int) -> None:
    shape = SHAPES["3x3"]
    weights, share, mask = numbers(shape, prime)
    client = Client(prime)
    answer = Server(client.public_key, prime).answer(shape, weights, mask, client.request(shape, share))
    expected = (direct(shape, weights, share, prime) - mask) % prime
    np.testing.assert_array_equal(client.result(shape, answer), expected)


def test_weights_of_any_size_are_taken_modulo_p(client: Client, server: Server) -> None:
    shape = SHAPES["groups"]
    weights, share, mask = numbers(shape)
    weights[:8] = 0  # no product is left for the first group
    request = client.request(shape, share)
    expected = (direct(shape, weights, share, PRIME) - mask) % PRIME
    for same in (
        weights,
        weights % PRIME,
        weights + 3 * PRIME,
        weights - 2**31 * PRIME,
        np.zeros_like(weights),
    ):
        answer = server.answer(shape, same, mask, request)
        wanted = expected if same.any() else (-mask) % PRIME
        np.testing.assert_array_equal(client.result(shape, answer), wanted)


def test_the_extreme_of_every_number(client: Client, server: Server) -> None:
    shape = SHAPES["several tiles of both"]
    weights = np.full(shape.weight_shape, PRIME // 2)
    share, mask = np.full(shape.input_shape, PRIME - 1), np.full(shape.output_shape, PRIME - 1)
    answer = server.answer(shape, weights, mask, client.request(shape, share))
    expected = (direct(shape, weights, share, PRIME) - mask) % PRIME
    np.testing.assert_array_equal(client.result(shape, answer), expected)


# What the client must not learn


def test_nothing_returns_twice(client: Client, server: Server) -> None:
    """The same share, weights and mask: all numbers of both messages differ."""
    shape = SHAPES["3x3"]
    weights, share, mask = numbers(shape)
    first, second = (client.request(shape, share) for _ in range(2))
    assert first[40:72] != second[40:72]  # the seeds: one for two shares would tell their difference
    answers = [server.answer(shape, weights, mask, request) for request in (first, first, second)]
    for a, b in ((first, second), (answers[0], answers[1]), (answers[0], answers[2])):
        # of 56 or 48 uniform bits, two numbers are equal with probability 2^-48
        width = 7 if a in answers else 6
        a, b = (unpack_words(m[72:][: len(m[72:]) // width * width], width) for m in (a, b))
        assert (a != b).all()


def test_the_second_polynomial_is_not_the_requests_times_the_weights(client: Client, server: Server) -> None:
    """With the identity for weights it would be the request's own, and would tell that."""
    shape = LinearShape.matrix(1, 1)
    packing = packing_of(shape)
    request = client.request(shape, np.array([5]))
    (_, _, words), *_ = server._ciphertexts(packing, np.array([[1]]), np.array([0]), request)
    scheme = client._scheme
    own = scheme.evaluator.transform_from_ntt(server._inputs(packing, request)[0, 0])
    own = scheme.words(scheme.evaluator.mod_switch_to(own, scheme.context.last_parms_id()))
    modulus = np.int64(scheme.moduli[0])
    distance = np.abs((words[1, 0].astype(np.int64) - own[1, 0].astype(np.int64)) % modulus / modulus - 0.5)
    # uniform: mean 1/4, standard deviation 1 / sqrt(48 N)
    assert abs(distance.mean() - 0.25) < 7 / np.sqrt(48 * DEGREE)


def test_coefficients_without_results_are_masked(client: Client, server: Server) -> None:
    """Before they are left out: the client's own key opens uniform numbers there, others each time."""
    shape = SHAPES["3x3"]
    weights, share, mask = numbers(shape)
    packing = packing_of(shape)
    request = client.request(shape, share)
    opened = []
    for _ in range(2):
        ((_, _, words),) = server._ciphertexts(packing, weights, mask, request)
        plain = client._decryptor.decrypt(client._scheme.ciphertext(words, ntt=False))
        opened.append(client._scheme.coefficients(plain))
    index, _ = packing.results(0, 0)
    other = np.delete(np.arange(DEGREE), index.ravel())
    assert len(other) > 7000
    np.testing.assert_array_equal(opened[0][index], opened[1][index])
    for values in opened[0][other], opened[1][other], (opened[0] - opened[1])[other] % PRIME:
        assert chi_square(values, PRIME) < 90


def test_coefficients_without_results_are_left_out(client: Client, server: Server) -> None:
    """The message has the first polynomial's numbers at the results, and the second polynomial."""
    shape = SHAPES["3x3"]
    weights, share, mask = numbers(shape)
    packing = packing_of(shape)
    index, _ = packing.results(0, 0)
    sent = []
    inner = server._ciphertexts

    def recorded(*args: object) -> object:
        for output_tile, row_tile, words in inner(*args):  # type: ignore[arg-type]
            sent.append(words)
            yield output_tile, row_tile, words

    server._ciphertexts = recorded  # type: ignore[method-assign, assignment]
    try:
        answer = server.answer(shape, weights, mask, client.request(shape, share))
    finally:
        del server._ciphertexts
    ((words,),) = (sent,)
    expected = pack_words(np.concatenate([words[0, 0, index.ravel()], words[1, 0]]), 7)
    assert answer[40:] == expected
    assert len(expected) == 7 * (index.size + DEGREE)


def test_what_is_sent_was_flooded_at_every_result(
    client: Client, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = SHAPES["several tiles of both"]
    weights, share, mask = numbers(shape)
    scheme, packing, flooded = server._scheme, packing_of(shape), []
    flood = scheme.flood

    def recorded(words: np.ndarray, index: np.ndarray) -> np.ndarray:
        flooded.append((flood(words, index), index))
        return flooded[-1][0]

    monkeypatch.setattr(scheme, "flood", recorded)
    for output_tile, row_tile, sent in server._ciphertexts(
        packing, weights, mask, client.request(shape, share)
    ):
        words, index = flooded.pop()
        np.testing.assert_array_equal(index, packing.results(output_tile, row_tile)[0].ravel())
        last = scheme.evaluator.mod_switch_to(scheme.ciphertext(words, False), scheme.context.last_parms_id())
        np.testing.assert_array_equal(sent, scheme.words(last))
    assert not flooded


def test_noise_is_flooded_by_uniform_numbers(client: Client) -> None:
    """What :meth:`Scheme.flood` adds, put together from its primes: one integer of [-2^103, 2^103)."""
    scheme = client._scheme
    words = np.stack([uniform(stream(bytes(32), 0), modulus, 2 * DEGREE) for modulus in scheme.moduli], 1)
    words = np.ascontiguousarray(words.reshape(2, DEGREE, 3).transpose(0, 2, 1))
    index = np.arange(0, DEGREE, 2)
    flooded = scheme.flood(words, index)
    np.testing.assert_array_equal(flooded[1], words[1])
    np.testing.assert_array_equal(flooded[0][:, 1::2], words[0][:, 1::2])
    moduli = np.array(scheme.moduli)[:, None]
    added = ((flooded[0] - words[0].astype(object)) % moduli)[:, index]
    whole = int(np.prod(np.array(scheme.moduli, object)))
    crt = [whole // q * pow(whole // q, -1, q) for q in scheme.moduli]
    noise = [
        sum(int(n) * factor for n, factor in zip(column, crt, strict=True)) % whole for column in added.T
    ]
    noise = [n - whole if n > whole // 2 else n for n in noise]
    assert all(-(2**103) <= n < 2**103 for n in noise)
    assert chi_square(np.array([(n + 2**103) >> 73 for n in noise]), 2**31) < 90
    assert chi_square(np.array([n & (2**31 - 1) for n in noise]), 2**31) < 90


def test_the_statistical_parameter() -> None:
    """Noise of the request at most 21 (SEAL's bound), 1/2 for rounding, and the most and largest weights."""
    noise = bfv.MOST_WEIGHTS * (2**31 // 2) * 21.5
    assert np.log2(DEGREE * noise) - 8 * bfv.FLOOD_BYTES <= -bfv.STATISTICAL_BITS


def test_a_request_has_only_small_noise(client: Client) -> None:
    """Of SEAL's own: 152 - 1 - 31 bits of modulus, less the 4.4 bits of 21 + 1/2."""
    shape = SHAPES["3x3"]
    share = numbers(shape)[1]
    server = Server(client.public_key)
    for ciphertext in server._inputs(packing_of(shape), client.request(shape, share)).values():
        ciphertext = client._scheme.evaluator.transform_from_ntt(ciphertext)
        assert client._decryptor.invariant_noise_budget(ciphertext) >= 152 - 1 - 31 - 5


@pytest.mark.parametrize("name", ["several tiles of both", "large matrix", "matrix"])
def test_the_budget_after_flooding(name: str, client: Client, server: Server) -> None:
    """Measured on real answers, with the largest weights there are."""
    shape = SHAPES[name]
    _, share, mask = numbers(shape)
    weights = np.where(np.random.default_rng(1).integers(0, 2, shape.weight_shape), PRIME // 2, -(PRIME // 2))
    packing = packing_of(shape)
    for _, _, words in server._ciphertexts(packing, weights, mask, client.request(shape, share)):
        ciphertext = client._scheme.ciphertext(words, ntt=False)
        assert client._decryptor.invariant_noise_budget(ciphertext) >= bfv.SMALLEST_BUDGET


def test_the_budget_is_checked_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Scheme().flooded_budget() >= bfv.SMALLEST_BUDGET
    monkeypatch.setattr(bfv, "FLOOD_BYTES", 14)
    with pytest.raises(HomomorphicError, match=r"\d bits of noise budget are left after flooding, and 12"):
        Scheme()


# Messages of strangers


def resealed(message: bytes, position: int, byte: int) -> bytes:
    """A message with another byte, and the checksum that belongs to it."""
    body = bytearray(message[40:])
    body[position] = byte
    return message[:24] + hashlib.blake2b(message[:24] + body, digest_size=16).digest() + bytes(body)


def test_damaged_and_foreign_messages_are_refused(client: Client, server: Server) -> None:
    shape = SHAPES["3x3"]
    weights, share, mask = numbers(shape)
    request = client.request(shape, share)
    answer = server.answer(shape, weights, mask, request)
    readers = {
        "request": (request, lambda m: server.answer(shape, weights, mask, m)),
        "answer": (answer, lambda m: client.result(shape, m)),
        "public key": (client.public_key, Server),
    }
    for kind, (message, read) in readers.items():
        for wrong in (b"", message[:-1], message + b"\0", message[:40], bytes(10**6)):
            with pytest.raises(
                HomomorphicError, match=f"^{kind}: {len(wrong)} bytes instead of {len(message)}$"
            ):
                read(wrong)
        with pytest.raises(HomomorphicError, match=f"^{kind}: the message does not begin with"):
            read(np.random.default_rng(2).bytes(len(message)))
        for position, text in (
            (0, "begin with"),
            (9, "for another prime"),
            (30, "checksum"),
            (50, "checksum"),
        ):
            damaged = bytearray(message)
            damaged[position] ^= 1
            with pytest.raises(HomomorphicError, match=f"^{kind}: .*{text}"):
                read(bytes(damaged))
        # primes have ones in all their upper bits, so a number of ones is none below them
        full = message[:40] + b"\xff" * (len(message) - 40)
        with pytest.raises(HomomorphicError, match=f"^{kind}: a number is not below its prime"):
            read(resealed(full, 0, 255))
        read(message)


def test_a_message_of_another_layer_kind_or_prime_is_refused(client: Client, server: Server) -> None:
    shape = LinearShape.matrix(8, 8)
    other = LinearShape(8, 1, 1, 8, (1, 1))
    weights, share, mask = numbers(shape)
    request = client.request(other, share.reshape(8, 1, 1))
    assert len(request) == traffic(shape).bytes_up
    with pytest.raises(
        HomomorphicError, match="request: the message is of another kind, or for another prime"
    ):
        server.answer(shape, weights, mask, request)
    with pytest.raises(
        HomomorphicError, match="request: the message is of another kind, or for another prime"
    ):
        server.answer(shape, weights, mask, Client(2**31 - 1).request(shape, share))
    with pytest.raises(
        HomomorphicError, match="public key: the message is of another kind, or for another prime"
    ):
        Server(client.public_key, 2**31 - 1)


def test_a_stranger_decrypts_nothing(client: Client, server: Server) -> None:
    """With another key the same answer gives uniform numbers."""
    shape = SHAPES["several tiles of both"]
    weights, share, mask = numbers(shape)
    answer = server.answer(shape, weights, mask, client.request(shape, share))
    assert chi_square(Client().result(shape, answer).ravel(), PRIME) < 90


def test_wrong_numbers_are_refused(client: Client, server: Server) -> None:
    shape = LinearShape.matrix(3, 4)
    weights, share, mask = numbers(shape)
    request = client.request(shape, share)
    with pytest.raises(ValueError, match=r"share must be integers of shape \(4,\), got int64 of \(3,\)"):
        client.request(shape, share[:3])
    with pytest.raises(ValueError, match="share must be integers .* got float64"):
        client.request(shape, share.astype(float))
    for wrong in -1, PRIME:
        with pytest.raises(ValueError, match=rf"share must lie in \[0, {PRIME}\)"):
            client.request(shape, np.full(4, wrong))
        with pytest.raises(ValueError, match=rf"mask must lie in \[0, {PRIME}\)"):
            server.answer(shape, weights, np.full(3, wrong), request)
    with pytest.raises(ValueError, match=r"weights must be integers of shape \(3, 4\)"):
        server.answer(shape, weights.T, mask, request)


def test_primes_that_seal_cannot_take_are_refused_by_name() -> None:
    own = Scheme().own_modulus
    with pytest.raises(HomomorphicError, match=f"prime = {own}: SEAL refuses it .*{DEFAULT_PRIME}"):
        Client(own)
    with pytest.raises(ValueError, match="prime = 2147483659 is not an odd prime below"):
        Client(2147483659)


def test_layers_that_do_not_fit_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="width=5000.*N = 8192 coefficients; use the dealer"):
        packing_of(LinearShape(1, 5000, 5000, 1, (3, 3)))
    with pytest.raises(ValueError, match="channels=70000.*70000 weights per output.*use the dealer"):
        packing_of(LinearShape.matrix(1, 70000))
    assert packing_of(LinearShape.matrix(4096, 25088)).weights_per_result <= bfv.MOST_WEIGHTS


def test_costs_need_no_seal_and_its_absence_is_named() -> None:
    code = """
import sys
sys.modules["seal"] = None
from circa_train.pi.he_messages import traffic
from circa_train.pi.homomorphic import Client
from circa_train.pi.linear_shape import LinearShape
assert traffic(LinearShape.matrix(10, 64)).requests == 1
assert "torch" not in sys.modules
try:
    Client()
except ImportError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=120, capture_output=True, text=True)
    assert run.stdout == "homomorphic encryption needs SEAL: pip install 'circa_train[homomorphic]'\n"


# Numbers


def test_uniform_leaves_out_what_is_too_large() -> None:
    words = {3: iter([bytes([0xF7, 0xFB, 6])]), 2: iter([bytes([5, 0x0C])]), 1: iter([bytes([0])])}
    assert uniform(lambda count: next(words[count]), 5, 3).tolist() == [3, 4, 0]  # 3 bits of every byte
    drawn = uniform(stream(b"k" * 32, 1), 5, 10000)
    assert np.bincount(drawn.astype(int)).min() > 2000 - 7 * 40  # sigma is 40


def test_streams_are_one_per_number() -> None:
    seed = bytes(range(32))
    first, again, other = stream(seed, 0), stream(seed, 0), stream(seed, 1)
    whole = first(64)
    assert whole == again(13) + again(51)
    assert whole != other(64)
    assert stream(bytes(32), 0)(16).hex() == "dc95c078a2408989ad48a21492842087"  # AES-256 of zeros (NIST)


@pytest.mark.parametrize("width", [3, 6, 7])
def test_words_there_and_back(width: int) -> None:
    words = np.random.default_rng(width).integers(0, 2 ** (8 * width), 100, np.uint64)
    data = pack_words(words, width)
    assert data == b"".join(int(word).to_bytes(width, "little") for word in words)
    np.testing.assert_array_equal(unpack_words(data, width), words)
