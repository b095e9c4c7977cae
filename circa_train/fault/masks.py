"""Random words and uniform masks, addressed by (seed, site, draw, element): the readable reference.

A mask is a pure function of its address, by the counter-based generator :mod:`circa_train.philox`. The
address is packed into key and counter without hashing, so no two addresses share a counter::

    key      k0, k1 = seed (64 bits)
    counter  c0 = block, low 32 bits
             c1 = block's bits 32..39  |  attempt (8 bits) << 8  |  site (16 bits) << 16
             c2, c3 = draw (63 bits)

A block is four words. Element e takes word (e >> 6) & 3 of block ((e >> 8) << 6) | (e & 63). So a *run* of
256 elements takes its words from 64 blocks, and 64 consecutive elements take the same word of consecutive
blocks: a vector unit or a GPU block writes its words to consecutive places.

A mask is exactly uniform on [0, p), by rejection: the word w is accepted if (w * p) mod 2^32 >= 2^32 mod p,
and then t = (w * p) >> 32 (Lemire, ACM TOMACS 2019); if not (0.4% at the default prime), the element takes
the word of the next attempt. Without rejection, whether the 32-bit word is reduced modulo p or scaled, some
residues would be 1.5 times as likely as others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from circa_train.field import DEFAULT_PRIME, check_prime
from circa_train.philox import MASK32, philox

RUN = 256  # elements served by RUN // 4 consecutive blocks
LANES = RUN // 4

MAX_SITES = 2**16
MAX_DRAWS = 2**63
MAX_ELEMENTS = 2**42
MAX_ATTEMPTS = 2**8  # an element rejected this often has probability below 2^-256


def uniform_masks(
    shape: Sequence[int],
    *,
    seed: int,
    site: int,
    draw: int | Tensor,
    prime: int = DEFAULT_PRIME,
    device: torch.device | str = "cpu",
    first_element: int | Tensor = 0,
) -> Tensor:
    """Masks t uniform on [0, prime), one per element.

    Args:
        shape: shape of the result; its elements are numbered in row-major order.
        seed: in [0, 2^64).
        site: index of the ReLU site, in [0, 2^16).
        draw: number of the draw, in [0, 2^63); an int or a 0-dimensional int64 tensor.
        prime: the field.
        device: where the result lies; the bits are the same everywhere.
        first_element: number of the first element, so that a part of a batch gets the masks that it has in
            the whole batch.

    Returns:
        int64 tensor of ``shape``.

    Raises:
        ValueError: for an address outside its range, or an invalid prime.
    """
    elements = element_numbers(shape, first_element, device)
    return masks_at(elements, seed=seed, site=site, draw=draw, prime=prime).reshape(tuple(shape))


def masks_at(
    elements: Tensor, *, seed: int, site: int, draw: int | Tensor, prime: int = DEFAULT_PRIME
) -> Tensor:
    """The masks of :func:`uniform_masks` for elements given by their numbers: int64 (n,), like
    ``elements``.
    """
    check_prime(prime)
    threshold = 2**32 % prime
    product = words_at(elements, seed=seed, site=site, draw=draw) * prime
    mask = product >> 32
    pending = ((product & MASK32) < threshold).nonzero(as_tuple=True)[0]
    attempt = 1
    while pending.numel():
        product = words_at(elements[pending], seed=seed, site=site, draw=draw, attempt=attempt) * prime
        accepted = (product & MASK32) >= threshold
        mask[pending[accepted]] = (product >> 32)[accepted]
        pending = pending[~accepted]
        attempt += 1
    return mask


def random_words(
    shape: Sequence[int],
    *,
    seed: int,
    site: int,
    draw: int | Tensor,
    attempt: int = 0,
    device: torch.device | str = "cpu",
    first_element: int | Tensor = 0,
) -> Tensor:
    """Words uniform on [0, 2^32), addressed as in :func:`uniform_masks`; int64 tensor of ``shape``."""
    elements = element_numbers(shape, first_element, device)
    return words_at(elements, seed=seed, site=site, draw=draw, attempt=attempt).reshape(tuple(shape))


def ring_masks(
    shape: Sequence[int],
    *,
    seed: int,
    site: int,
    draw: int | Tensor,
    device: torch.device | str = "cpu",
    first_element: int | Tensor = 0,
) -> Tensor:
    """Masks uniform on Z_2^64 as int64 bit patterns: the words of attempts 0 (low half) and 1 (high half)."""
    elements = element_numbers(shape, first_element, device)
    return ring_masks_at(elements, seed=seed, site=site, draw=draw).reshape(tuple(shape))


def ring_masks_at(elements: Tensor, *, seed: int, site: int, draw: int | Tensor) -> Tensor:
    """The masks of :func:`ring_masks` for elements given by their numbers: int64, like ``elements``."""
    low = words_at(elements, seed=seed, site=site, draw=draw)
    high = words_at(elements, seed=seed, site=site, draw=draw, attempt=1)
    return low | (high << 32)


def words_at(elements: Tensor, *, seed: int, site: int, draw: int | Tensor, attempt: int = 0) -> Tensor:
    """The word of each addressed element: int64 tensor in [0, 2^32), shaped like ``elements`` (int64)."""
    check_address(seed, site, draw)
    if not 0 <= attempt < MAX_ATTEMPTS:
        raise ValueError(f"attempt = {attempt} is outside [0, {MAX_ATTEMPTS})")
    block = ((elements >> 8) << 6) | (elements & (LANES - 1))
    draw_low, draw_high = draw & MASK32, draw >> 32
    counter = [
        block & MASK32,
        (block >> 32) | (attempt << 8) | (site << 16),
        torch.zeros_like(block) + draw_low,
        torch.zeros_like(block) + draw_high,
    ]
    words = torch.stack(philox(counter, (seed & MASK32, seed >> 32)))
    return words.gather(0, ((elements >> 6) & 3).unsqueeze(0)).squeeze(0)


def check_address(seed: int, site: int, draw: int | Tensor) -> None:
    """Raise ValueError if a part of the address does not fit into its bits of the counter. A draw that is a
    tensor is not checked.
    """
    if not 0 <= seed < 2**64:
        raise ValueError(
            f"seed = {seed} is outside [0, 2^64); masks are addressed by an unsigned 64-bit seed"
        )
    if not 0 <= site < MAX_SITES:
        raise ValueError(f"site = {site} is outside [0, {MAX_SITES}); number the sites of a network from 0")
    if not isinstance(draw, Tensor) and not 0 <= draw < MAX_DRAWS:
        raise ValueError(f"draw = {draw} is outside [0, 2^63); number the draws from 0")


def element_numbers(shape: Sequence[int], first_element: int | Tensor, device: torch.device | str) -> Tensor:
    """Flat int64 tensor of the addresses of a tensor of ``shape``, in row-major order."""
    count = math.prod(shape)
    if not isinstance(first_element, Tensor):
        check_elements(first_element, count)
    return torch.arange(count, dtype=torch.int64, device=device) + first_element


def check_elements(first: int, count: int) -> None:
    """Refuse elements outside [0, 2^42)."""
    if not 0 <= first <= MAX_ELEMENTS - count:
        raise ValueError(f"elements {first} to {first + count} leave [0, 2^42), the range of addresses")
