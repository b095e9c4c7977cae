"""Does a sign test keep what its class promises? A conformance suite for fault models, a stranger's and our
own.

    from circa_train.testing import check_sign_test
    check_sign_test(MyTest(k=3, prime=251))

Give it a test over a small field, so that every mask can be tried; it raises AssertionError and says what it
found.
"""

from __future__ import annotations

import json

import torch

from circa_train.fault import (
    FAULT_KINDS,
    SignTest,
    draw_sign,
    expected_faults,
    fault_count,
    fault_probability,
    observed_faults,
    sign_test_from_dict,
)
from circa_train.field import largest_centred
from circa_train.nn import StochasticReLU

#: The most masks that are tried one by one.
MOST_MASKS = 2**16

#: Standard deviations of a binomial that a count may be off: by chance that happens once in a million and a
#: half tries.
SIGMAS = 5.0


def check_sign_test(spec: SignTest, *, values: int = 257, seed: int = 0) -> None:
    """Check one sign test against its contract (:class:`circa_train.SignTest`).

    - its description goes to JSON and back, and it can be hashed;
    - for every mask there is (up to 65,536; else drawn ones, within five standard deviations), gate and
      counts agree, for each x and each cause, on ints and on tensors alike; x = 0 is never a fault;
    - masks are uniform, belong to their address, and can be drawn again, in parts as in the whole;
    - every backend that knows the test gives the bits of the reference, ``auto`` computes it, the gradient is
      the gate;
    - level 1 of its severity is the test itself, and level 0 is no more severe.

    Args:
        spec: the sign test, with a single parameter for all channels.
        values: how many x are tried, spread over the field, with its edges and the smallest of both signs
            among them.
        seed: of the drawn masks.

    Raises:
        AssertionError: saying which promise is broken, with x, want and got.
    """
    name = f"{spec.kind}: "
    assert not spec.by_channel, name + "give the test of one channel"
    assert spec.kinds and set(spec.kinds) <= set(FAULT_KINDS), (
        f"{name}kinds = {spec.kinds}, not of {FAULT_KINDS}"
    )
    x = _values(spec, values)
    _check_description(spec, name)
    _check_law(spec, x, name, seed)
    _check_masks(spec, name, seed)
    _check_layer(spec, name, seed)
    assert spec.at_level(1.0) == spec, f"{name}at_level(1.0) is {spec.at_level(1.0)}"
    mildest = fault_probability(x, spec.at_level(0.0)).sum()
    assert mildest <= fault_probability(x, spec).sum() + 1e-9, (
        f"{name}at_level(0.0) makes more faults than the test"
    )


def _values(spec: SignTest, count: int) -> torch.Tensor:
    limit = largest_centred(spec.prime)
    spread = torch.linspace(-limit, limit, count, dtype=torch.float64).round().long()
    edges = torch.tensor([v for v in range(-8, 9) if abs(v) <= limit])
    return torch.unique(torch.cat([spread, edges]))


def _check_description(spec: SignTest, name: str) -> None:
    told = json.loads(json.dumps(spec.to_dict()))
    back = sign_test_from_dict(told)
    assert back == spec, f"{name}{told} is read back as {back}"
    assert hash(back) == hash(spec), f"{name}equal tests have different hashes"


def _check_law(spec: SignTest, x: torch.Tensor, name: str, seed: int) -> None:
    """Gate against counts, by value, by cause and by direction."""
    counts = [int(fault_count(int(v), spec)) for v in x]
    chance = fault_probability(x, spec)
    for v, count, probability in zip(x.tolist(), counts, chance.tolist(), strict=True):
        assert 0 <= count <= spec.mask_count, f"{name}x = {v}: {count} of {spec.mask_count} masks"
        assert abs(count / spec.mask_count - probability) < 1e-12, (
            f"{name}x = {v}: an int counts {count}, a tensor not"
        )
        assert v or count == 0, f"{name}x = 0 has {count} faults; it has none, as its output is 0 either way"
    if spec.is_exact:
        assert not any(counts), f"{name}an exact test has faults"
        return
    enumerated = spec.mask_count <= MOST_MASKS
    tries = spec.mask_count if enumerated else MOST_MASKS
    for v, count in zip(x.tolist(), counts, strict=True):
        one = torch.full((tries,), v, dtype=torch.int64)
        if enumerated:
            mask: torch.Tensor | None = torch.arange(tries)
        else:
            mask = spec.masks_at(torch.arange(tries), seed=seed, site=abs(v) % 2**16, draw=int(v > 0))
        gate = spec.gate(one, mask)
        assert gate.dtype == torch.bool and gate.shape == one.shape, (
            f"{name}the gate is {gate.dtype} {gate.shape}"
        )
        seen, due = observed_faults(one, mask, gate, spec), expected_faults(one[:1], spec)
        for kind in spec.kinds:
            for direction in ("zeroed", "passed"):
                got = getattr(seen, f"{kind}_{direction}")
                share = getattr(due, f"{kind}_{direction}")
                slack = 1e-6 if enumerated else SIGMAS * (tries * share * (1 - share)) ** 0.5 + 1e-6
                assert abs(got - share * tries) <= slack, (
                    f"{name}x = {v}, {kind} {direction}: of {tries} masks counts says {share * tries:g}, the "
                    f"gate {got}"
                )
        if enumerated:
            assert seen.faults == count, (
                f"{name}x = {v}: counts says {count} faults, the gate makes {seen.faults}"
            )


def _check_masks(spec: SignTest, name: str, seed: int) -> None:
    elements = torch.arange(20_000)
    drawn = spec.masks_at(elements, seed=seed, site=3, draw=5)
    if spec.is_exact:
        assert drawn is None, f"{name}an exact test draws masks"
        return
    assert drawn is not None, f"{name}masks_at draws nothing, though there are {spec.mask_count} masks"
    assert drawn.dtype == torch.int64, f"{name}masks are {drawn.dtype}, not int64"
    again = spec.masks_at(elements[777:], seed=seed, site=3, draw=5)
    assert again is not None and torch.equal(again, drawn[777:]), (
        f"{name}a part of a draw has other masks than the whole"
    )
    other = spec.masks_at(elements, seed=seed, site=4, draw=5)
    assert other is not None and not torch.equal(other, drawn), f"{name}two sites draw the same masks"
    if spec.mask_count < 2**62:
        assert 0 <= int(drawn.min()) and int(drawn.max()) < spec.mask_count, (
            f"{name}masks leave [0, {spec.mask_count})"
        )
        mean, exact = float(drawn.double().mean()), (spec.mask_count - 1) / 2
        slack = SIGMAS * spec.mask_count / (12 * len(drawn)) ** 0.5
        assert abs(mean - exact) <= slack, (
            f"{name}masks have the mean {mean:g}, uniform ones {exact:g} +- {slack:g}"
        )


def _check_layer(spec: SignTest, name: str, seed: int) -> None:
    """The module: all backends' bits, replay, and the gradient."""
    limit = largest_centred(spec.prime)
    frac_bits = 0 if limit < 2**20 else 16
    reach = min(limit / 2**frac_bits, 60.0)
    z = (torch.linspace(-reach, reach, 4 * 3 * 8 * 8).reshape(4, 3, 8, 8)).round(decimals=3)
    results = {}
    for backend in ("reference", "auto", "cpu"):
        relu = StochasticReLU(spec, frac_bits=frac_bits, seed=seed, site=1, backend=backend)
        leaf = z.clone().requires_grad_()
        try:
            y = relu(leaf)
        except ValueError as error:
            assert backend == "cpu" and spec.kind in str(error), f"{name}backend {backend}: {error}"
            continue
        (gradient,) = torch.autograd.grad(y.sum(), leaf)
        opened = (y != 0) | torch.signbit(y)
        assert bool(((y == z) | (y == 0)).all()), (
            f"{name}backend {backend}: an output is neither 0 nor the input"
        )
        if not spec.is_exact:
            assert torch.equal(gradient != 0, opened), (
                f"{name}backend {backend}: the gradient is not the gate"
            )
        relu.set_draw(0)
        assert torch.equal(relu(z), y), f"{name}backend {backend}: a draw cannot be replayed"
        results[backend] = y.detach()
    for backend, y in results.items():
        same = torch.equal(y, results["reference"])
        assert same, f"{name}backend {backend} gives other bits than the reference"
    if not spec.is_exact:
        gate, _ = draw_sign((z.double() * 2**frac_bits).round().long(), spec, seed=seed, site=1, draw=0)
        assert torch.equal(gate & (z != 0), results["reference"] != 0), (
            f"{name}the module's gates are not draw_sign's"
        )
