"""Sign tests and their descriptions: ties, wraps, the other fault models, and every refusal."""

from __future__ import annotations

import pytest
import torch

from circa_train.fault import (
    BitWindow,
    NoFault,
    TruncatedSign,
    UniformFault,
    draw_sign,
    sign_test_from_dict,
    truncated_sign,
    uniform_masks,
)
from circa_train.field import DEFAULT_PRIME

SPECS = [
    TruncatedSign(12),
    TruncatedSign((3, 4), "negpass", 251),
    UniformFault(0.5, "zeroed"),
    BitWindow(8, 21),
    NoFault(),
]


def test_ties_and_wraps_of_the_documented_example() -> None:
    x, t = torch.tensor([5, 5, 5]), torch.tensor([0, 4, 248])
    assert truncated_sign(x, t, TruncatedSign(3, "poszero", 251)).tolist() == [False, True, False]
    assert truncated_sign(x, t, TruncatedSign(3, "negpass", 251)).tolist() == [True, True, False]


def test_modes_mirror_each_other() -> None:
    """s_negpass(x, t) is the negation of s_poszero(-x, x_s): the symmetry that the law rests on."""
    p, k = 127, 3
    x = torch.arange(-63, 64).repeat_interleave(p)
    t = torch.arange(p).repeat(p)
    negpass = truncated_sign(x, t, TruncatedSign(k, "negpass", p))
    assert torch.equal(negpass, ~truncated_sign(-x, (x + t) % p, TruncatedSign(k, "poszero", p)))


def test_masks_broadcast_and_k_per_channel() -> None:
    x = torch.arange(-60, 60).reshape(2, 3, 4, 5)
    t = uniform_masks((3, 4, 5), seed=0, site=0, draw=0, prime=251)
    got = truncated_sign(x, t, TruncatedSign((0, 2, 5), prime=251))
    for channel, k in enumerate((0, 2, 5)):
        assert torch.equal(
            got[:, channel], truncated_sign(x[:, channel], t[channel], TruncatedSign(k, prime=251))
        )


def test_flips_spare_zero_and_the_other_direction() -> None:
    x = torch.tensor([-2, 0, 2]).repeat(2)
    word = torch.tensor([0, 0, 0, 2**31, 2**31, 2**31])
    assert UniformFault(0.5).gate(x, word).tolist() == [True, False, False, False, False, True]
    assert UniformFault(0.5, "zeroed").gate(x, word).tolist() == [
        False,
        False,
        False,
        False,
        False,
        True,
    ]
    assert UniformFault(0.5, "passed").gate(x, word).tolist() == [
        True,
        False,
        True,
        False,
        False,
        True,
    ]
    highest = torch.full_like(x, 2**32 - 1)
    assert UniformFault(1.0).gate(x, highest).tolist() == [True, False, False] * 2
    assert UniformFault(0.0).gate(x, torch.zeros_like(x)).tolist() == [False, False, True] * 2


def test_a_whole_window_is_exact() -> None:
    x = torch.tensor([-(2**40), -1, 0, 1, 2**40])
    r = torch.tensor([0, 2**62, -(2**63), 12345, -1])
    assert BitWindow(0, 63).gate(x, r).tolist() == [False, False, True, True, True]


def test_window_on_python_integers() -> None:
    spec = BitWindow(2, 7)
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-100, 100, (500,), generator=generator)
    r = torch.randint(-(2**63), 2**63 - 1, (500,), generator=generator)
    for value, mask, s in zip(x.tolist(), r.tolist(), spec.gate(x, r).tolist(), strict=True):
        server, client = (value + mask) % 2**64, -mask % 2**64
        total = ((server >> 2) + (client >> 2)) % 2**5
        assert s == (total < 2**4), (value, mask)


@pytest.mark.parametrize("spec", SPECS)
def test_specs_go_to_dicts_and_back(spec: object) -> None:
    assert sign_test_from_dict(spec.to_dict()) == spec  # type: ignore[arg-type]


def test_draw_sign_returns_the_masks_it_used() -> None:
    x = torch.arange(-50, 50)
    spec = TruncatedSign(4, prime=251)
    s, t = draw_sign(x, spec, seed=3, site=2, draw=1)
    assert t is not None
    assert torch.equal(t, uniform_masks((100,), seed=3, site=2, draw=1, prime=251))
    assert torch.equal(s, truncated_sign(x, t, spec))
    assert torch.equal(draw_sign(x, NoFault(), seed=0, site=0, draw=0)[0], x > 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TruncatedSign(31), r"k = 31 is outside \[0, 30\]"),
        (lambda: TruncatedSign(-1), "k = -1 is outside"),
        (lambda: TruncatedSign((1, 99)), "k = 99 is outside"),
        (lambda: TruncatedSign(()), "names no channel"),
        (lambda: TruncatedSign(3, "poszer"), "mode = 'poszer' is not one of poszero, negpass"),
        (lambda: TruncatedSign(3, prime=15), "prime = 15 is not an odd prime"),
        (lambda: TruncatedSign(3, prime=2), "prime = 2 is not an odd prime"),
        (lambda: TruncatedSign(3, prime=2147483659), "not an odd prime below 2"),
        (lambda: UniformFault(1.5), "rate = 1.5 is not a probability"),
        (lambda: UniformFault(float("nan")), "rate = nan is not a probability"),
        (lambda: UniformFault(0.1, "up"), "direction = 'up' is not one of both, zeroed, passed"),
        (lambda: BitWindow(5, 5), "is empty"),
        (lambda: BitWindow(0, 64), "leaves"),
        (lambda: sign_test_from_dict({"kind": "magic"}), "fault kind 'magic' is not one of truncated_sign"),
        (lambda: sign_test_from_dict({"kind": "uniform", "k": 3}), "has no field 'k'"),
    ],
)
def test_bad_specs_are_refused_by_name(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("k", [3.0, "3", True, None])
def test_k_must_be_an_int(k: object) -> None:
    with pytest.raises(TypeError, match="k must be an int"):
        TruncatedSign(k)  # type: ignore[arg-type]


def test_bad_tensors_are_refused_by_name() -> None:
    spec = TruncatedSign(3, prime=251)
    x, t = torch.tensor([1, 2]), torch.tensor([3, 4])
    with pytest.raises(
        ValueError, match=r"t spans \[3, 251\], outside \[0, 250\]; draw masks with uniform_masks"
    ):
        truncated_sign(x, torch.tensor([3, 251]), spec)
    with pytest.raises(ValueError, match="t spans"):
        truncated_sign(x, torch.tensor([-1, 0]), spec)
    with pytest.raises(ValueError, match=r"x spans \[1, 126\]"):
        truncated_sign(torch.tensor([1, 126]), t, spec)
    with pytest.raises(TypeError, match="x must be an int64 tensor"):
        truncated_sign(x.float(), t, spec)
    with pytest.raises(TypeError, match="t must be an int64 tensor"):
        truncated_sign(x, t.int(), spec)
    with pytest.raises(ValueError, match="x is on meta and the masks t are on cpu"):
        truncated_sign(x.to("meta"), t, spec)


def test_empty_tensors_pass_through() -> None:
    empty = torch.empty((0, 4), dtype=torch.int64)
    assert truncated_sign(empty, empty, TruncatedSign(3)).shape == (0, 4)
    assert TruncatedSign(3).prime == DEFAULT_PRIME
