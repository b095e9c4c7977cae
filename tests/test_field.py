"""Z_p: conversions, shares and the refusal of moduli that are no odd prime below 2^31."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from circa_train import field

PRIMES = (3, 5, 251, 65537, field.DEFAULT_PRIME, 2**31 - 1)


def test_default_prime_supports_batching() -> None:
    assert field.check_prime(field.DEFAULT_PRIME) == 130543 * 2**14 + 1
    assert field.bit_length(field.DEFAULT_PRIME) == 31


def test_check_prime_agrees_with_trial_division() -> None:
    def is_odd_prime(n: int) -> bool:
        return n > 2 and all(n % d for d in range(2, int(n**0.5) + 1))

    for n in [*range(-3, 3000), *range(2**31 - 60, 2**31 + 3), 2**31 - 2**13 + 1]:
        if is_odd_prime(n) and n < 2**31:
            assert field.check_prime(n) == n
        else:
            with pytest.raises(ValueError, match=f"prime = {n} is not an odd prime"):
                field.check_prime(n)


@pytest.mark.parametrize("pseudoprime", [561, 1105, 2047, 3277, 1373653, 25326001])
def test_strong_pseudoprimes_are_refused(pseudoprime: int) -> None:
    with pytest.raises(ValueError, match="not an odd prime"):
        field.check_prime(pseudoprime)


@pytest.mark.parametrize("value", [251.0, "251", True, None])
def test_prime_must_be_an_int(value: object) -> None:
    with pytest.raises(TypeError, match="prime must be an int"):
        field.check_prime(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("prime", [3, 5, 251])
def test_every_value_and_mask_goes_there_and_back(prime: int) -> None:
    half = field.largest_centred(prime)
    for x in range(-half, half + 1):
        assert field.to_centred(field.to_canonical(x, prime), prime) == x
        for mask in range(prime):
            server, client = field.share(x, mask, prime)
            assert 0 <= server < prime
            assert 0 <= client < prime
            assert field.reconstruct(server, client, prime) == x


@pytest.mark.parametrize("prime", PRIMES)
def test_ints_numpy_and_torch_agree(prime: int) -> None:
    half = field.largest_centred(prime)
    x = np.array(sorted({-half, -1, 0, 1, half}), dtype=np.int64)
    for mask in (0, 1, prime - 1):
        expected = [field.share(int(v), mask, prime) for v in x]
        for array in (x, torch.from_numpy(x)):
            server, client = field.share(array, mask, prime)
            assert [(int(s), int(client)) for s in server] == expected
            back = field.reconstruct(server, client, prime)
            assert back.dtype == array.dtype
            assert back.tolist() == x.tolist()
