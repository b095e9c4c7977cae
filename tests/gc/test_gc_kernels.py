"""AES and the hash against an independent AES, and every kernel against the numpy one, byte for byte."""

from __future__ import annotations

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from gc_cases import KERNELS

from circa_train.field import DEFAULT_PRIME
from circa_train.gc.aes.engines import available_kernels, make_kernel
from circa_train.gc.aes.hashing import to_field
from circa_train.gc.aes.key_schedule import expand_key
from circa_train.gc.circuits.relu import ReluCircuit

KEY = bytes(range(16))
#: FIPS-197, appendices B and C.1: key, plaintext, ciphertext.
FIPS_197 = [
    (
        "2b7e151628aed2a6abf7158809cf4f3c",
        "3243f6a8885a308d313198a2e0370734",
        "3925841d02dc09fbdc118597196a0b32",
    ),
    (
        "000102030405060708090a0b0c0d0e0f",
        "00112233445566778899aabbccddeeff",
        "69c4e0d86a7b0430d8cdb78070b4c55a",
    ),
]
every_kernel = pytest.mark.parametrize("name", KERNELS)


def random_blocks(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 2**64, (*shape, 2), dtype=np.uint64)


def split(circuit, labels):
    return labels[: circuit.garbler_inputs], labels[circuit.garbler_inputs :]


def reference_aes(key, data):
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    return encryptor.update(data) + encryptor.finalize()


def integer(data):
    return int.from_bytes(data, "little")


def reference_tccr(key, label, low, high):
    """H(x, i) = pi(pi(x) ^ i) ^ pi(x), on Python integers."""
    inner = reference_aes(key, label)
    tweaked = (integer(inner) ^ (high << 64 | low)).to_bytes(16, "little")
    return (integer(reference_aes(key, tweaked)) ^ integer(inner)).to_bytes(16, "little")


@every_kernel
@pytest.mark.parametrize(("key", "plain", "cipher"), FIPS_197)
def test_aes_vectors(name, key, plain, cipher):
    # 9 copies: whole vectors and the rest that goes block by block.
    blocks = np.frombuffer(bytes.fromhex(plain) * 9, dtype=np.uint64).reshape(9, 2)
    assert make_kernel(bytes.fromhex(key), name).encrypt(blocks).tobytes() == bytes.fromhex(cipher) * 9


def test_key_schedule_vector():
    # FIPS-197, appendix A.1: the last round key.
    schedule = expand_key(bytes.fromhex(FIPS_197[0][0]))
    assert schedule[10].tobytes().hex() == "d014f9a8c9ee2589e13f0cc8b6630ca6"
    with pytest.raises(ValueError, match="16 bytes"):
        expand_key(b"short")


@every_kernel
@pytest.mark.parametrize("count", [1, 3, 4, 67])
def test_aes_and_hash_equal_an_independent_aes(name, count):
    kernel, blocks = make_kernel(KEY, name), random_blocks((count,))
    assert kernel.encrypt(blocks).tobytes() == reference_aes(KEY, blocks.tobytes())
    hashes = kernel.tccr_hash(blocks, 41, 2**40)
    for i in range(count):
        assert hashes[i].tobytes() == reference_tccr(KEY, blocks[i].tobytes(), 41, 2**40 + i), f"instance {i}"
    stream = np.empty((count, 2), dtype=np.uint64)
    kernel.counters(2**33, stream)
    plain = b"".join((2**33 + i).to_bytes(16, "little") for i in range(count))
    assert stream.tobytes() == reference_aes(KEY, plain)


@every_kernel
@pytest.mark.parametrize("instances", [1, 5, 64])
def test_active_labels_are_the_false_ones_moved_where_the_bit_is_set(name, instances):
    labels, offset = random_blocks((3, instances)), random_blocks(())
    bits = np.random.default_rng(0).random((3, instances)) < 0.5
    active = np.zeros_like(labels)
    make_kernel(KEY, name).activate(labels, bits, offset, active)
    for wire in range(3):
        for i in range(instances):
            wanted = labels[wire, i] ^ offset if bits[wire, i] else labels[wire, i]
            assert (active[wire, i] == wanted).all()


@every_kernel
@pytest.mark.parametrize("kind", ["full", "exact", "truncated"])
@pytest.mark.parametrize("instances", [1, 63, 130])
def test_kernels_give_the_same_bytes(name, kind, instances):
    circuit = ReluCircuit(kind, DEFAULT_PRIME, 12 if kind == "truncated" else 0).circuit
    labels, offset = random_blocks((circuit.inputs, instances)), random_blocks(())
    results = []
    for which in ("numpy", name):
        kernel = make_kernel(KEY, which)
        tables = np.zeros((circuit.and_gates, 2, instances, 2), dtype=np.uint64)
        false_labels = kernel.garble(circuit, split(circuit, labels), offset, tables, 5)
        active = kernel.evaluate(circuit, split(circuit, labels), tables, 5)
        results.append((tables.tobytes(), np.stack(false_labels).tobytes(), np.stack(active).tobytes()))
    assert results[0] == results[1]


@every_kernel
def test_evaluation_in_a_message_at_any_address(name):
    """Tables that start between two 16-byte boundaries are copied, not misread."""
    circuit = ReluCircuit(k=12).circuit
    labels = random_blocks((circuit.inputs, 8))
    tables = random_blocks((circuit.and_gates, 2, 8))
    shifted = np.zeros(tables.nbytes + 8, dtype=np.uint8)[8:].view(np.uint64).reshape(tables.shape)
    shifted[:] = tables
    kernel = make_kernel(KEY, name)
    want = kernel.evaluate(circuit, split(circuit, labels), tables, 0)[0]
    assert (kernel.evaluate(circuit, split(circuit, labels), shifted, 0)[0] == want).all()


@pytest.mark.parametrize("name", [n for n in available_kernels() if n != "numpy"])
def test_compiled_kernels_refuse_wrong_shapes(name):
    kernel, circuit = make_kernel(KEY, name), ReluCircuit(k=12).circuit
    labels, offset = split(circuit, random_blocks((circuit.inputs, 8))), random_blocks(())
    with pytest.raises(ValueError, match="tables"):
        kernel.evaluate(circuit, labels, random_blocks((circuit.and_gates - 1, 2, 8)), 0)
    with pytest.raises(ValueError, match="inputs"):
        kernel.evaluate(circuit, (labels[0][1:], labels[1]), random_blocks((circuit.and_gates, 2, 8)), 0)
    with pytest.raises(ValueError, match="inputs"):
        kernel.evaluate(circuit, (labels[0], labels[1][:, :7]), random_blocks((circuit.and_gates, 2, 8)), 0)
    with pytest.raises(ValueError, match="contiguous"):
        kernel.garble(circuit, labels, offset, random_blocks((circuit.and_gates, 2, 16))[:, :, ::2], 0)


def test_a_kernel_that_cannot_run_is_refused():
    with pytest.raises(ValueError, match="cannot run here"):
        make_kernel(KEY, "numba-1024")
    assert available_kernels()[-1] == "numpy"


def test_to_field_is_the_floor_of_the_exact_product():
    edges = [0, 1, 2**32 - 1, 2**64 - 1, 2**64, 2**127, 2**128 - 1]
    values = [*edges, *(integer(block.tobytes()) for block in random_blocks((500,)))]
    blocks = np.array([(v & (2**64 - 1), v >> 64) for v in values], dtype=np.uint64)
    for prime in (3, 251, DEFAULT_PRIME, 2**31 - 1):
        assert to_field(blocks, prime).tolist() == [v * prime >> 128 for v in values]
