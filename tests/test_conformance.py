"""The conformance suite passes on our own fault models, and finds what is wrong with broken ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch

from circa_train import BitWindow, NoFault, SignTest, TruncatedSign, UniformFault
from circa_train.fault import sign_test_kinds
from circa_train.fault.test import _REGISTRY
from circa_train.testing import check_sign_test


@pytest.fixture(autouse=True)
def _forget_what_a_test_defined():
    known = sign_test_kinds()
    yield
    _REGISTRY.clear()
    _REGISTRY.update(known)


@pytest.mark.parametrize(
    "spec",
    [
        TruncatedSign(0, prime=251), TruncatedSign(3, prime=251), TruncatedSign(7, "negpass", 251),
        TruncatedSign(4, "negpass", 67), TruncatedSign(12), UniformFault(0.01), UniformFault(0.3, "passed"),
        UniformFault(1.0, "zeroed"), BitWindow(0, 63), BitWindow(6, 20), NoFault(),
    ],
    ids=str,
)  # fmt: skip
def test_our_own(spec: SignTest) -> None:
    check_sign_test(spec, values=33)


def flipped(**methods: Any) -> SignTest:
    """A test over Z_251 that errs for the masks below ``width``, with some of its methods broken."""

    @dataclass(frozen=True)
    class Flipped(SignTest):
        width: int = 7
        prime: int = 251
        kind: ClassVar[str] = "flipped"
        severity: ClassVar[str | None] = "width"

        @property
        def mask_count(self) -> int:
            return self.prime

        def gate(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
            return (x > 0) ^ (mask < self.width)

        def counts(self, x: Any) -> tuple[Any, ...]:
            return ((x != 0) * self.width,)

    for name, method in methods.items():
        setattr(Flipped, name, method)
    return Flipped()


def test_a_model_of_ones_own_passes() -> None:
    check_sign_test(flipped())


@pytest.mark.parametrize(
    ("methods", "complaint"),
    [
        ({"counts": lambda self, x: ((x != 0) * (self.width + 1),)}, "counts says 8"),
        ({"counts": lambda self, x: ((x > -300) * self.width,)}, "x = 0 has 7 faults"),
        ({"gate": lambda self, x, mask: ((x > 0) ^ (mask < self.width)).int()}, "the gate is torch.int32"),
        ({"masks_at": lambda self, elements, **address: elements * 0}, "two sites draw the same masks"),
        (
            {"masks_at": lambda self, elements, seed, site, draw: (elements * 7919 + site) % 200},
            "masks have the mean",
        ),
        ({"at_level": lambda self, level: type(self)(width=20)}, "at_level"),
        ({"to_dict": lambda self: {"kind": "flipped", "width": 3}}, "is read back as"),
    ],
)
def test_broken_promises_are_named(methods: dict[str, Any], complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        check_sign_test(flipped(**methods), values=17)


def test_a_kind_has_one_owner_and_a_derived_test_is_another() -> None:
    with pytest.raises(ValueError, match=r"is circa_train\.fault\.circa\.TruncatedSign already"):
        type("Mine", (SignTest,), {"kind": "truncated_sign"})
    with pytest.raises(TypeError, match="is another test than 'truncated_sign'"):
        type("Mine", (TruncatedSign,), {})
    with pytest.raises(ValueError, match="name the causes"):
        type("Mine", (SignTest,), {"kind": "mine", "kinds": ("bad luck",)})
