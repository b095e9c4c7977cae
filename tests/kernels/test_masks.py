"""Masks on their own in compiled code are those of the reference, whatever the piece."""

from __future__ import annotations

import pytest
import torch

from circa_train import fault
from circa_train.kernels import ops, uniform_masks

PRIMES = (3, 251, 65537, 2138816513, 2147483647)
ADDRESS = {"seed": 2**64 - 5, "site": 65535, "draw": 2**63 - 1}


@pytest.fixture(params=["compiled", "formula"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ops.choose("auto", torch.device("cpu"), torch.float32) == "cpu"
    if request.param == "formula":
        monkeypatch.setattr(ops, "unavailable", lambda *args: "switched off")


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("prime", PRIMES)
@pytest.mark.parametrize(
    ("first", "shape"),
    [(0, (1,)), (1, (254,)), (255, (2, 3)), (256, (256,)), (0, ()), (4095, (3, 7, 1000)), (100, (2, 0)),
     (2**42 - 70000, (70000,))],
)  # fmt: skip
def test_they_are_the_reference(prime: int, first: int, shape: tuple[int, ...]) -> None:
    masks = uniform_masks(shape, prime=prime, first_element=first, **ADDRESS)
    wanted = fault.uniform_masks(shape, prime=prime, first_element=first, **ADDRESS)
    assert masks.dtype == torch.int64
    assert masks.shape == wanted.shape
    assert torch.equal(masks, wanted)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_number_of_threads_changes_nothing(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        masks = uniform_masks((300_000,), seed=1, site=2, draw=3, first_element=77)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(masks, fault.uniform_masks((300_000,), seed=1, site=2, draw=3, first_element=77))


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize(
    ("wrong", "named"),
    [({"seed": -1}, "seed"), ({"site": 2**16}, "site"), ({"draw": -1}, "draw"), ({"prime": 9}, "prime"),
     ({"first_element": 2**42}, "elements")],
)  # fmt: skip
def test_bad_addresses_are_refused(wrong: dict[str, int], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        uniform_masks((3,), **{"seed": 0, "site": 0, "draw": 0, **wrong})
