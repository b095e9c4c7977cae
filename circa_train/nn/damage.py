"""What a sign test is expected to do to an activation: the square of what its faults change, by the law.

A ReLU's output is wrong by |z|, whatever the direction, where the gate s differs from [z > 0]. So with x the
fixed-point value of z,

    damage(z) = z^2 P(s != [z > 0]),    x = round_half_even(z 2^frac_bits).

This is z^2 times the fault law at every x but 0: there no gate is a fault, and yet z, small but not zero, is
lost (PosZero: a tie) or passed (NegPass). For a test whose answer to 0 depends on the mask, the law of the
nearest value of z's sign is taken. Fewer fraction bits make ties (and zeros) more frequent, more of them
wraps. Beyond the field there is no law, and the damage is infinite. Squares of small errors of different
elements add up, as they err independently.
"""

from __future__ import annotations

import torch
from torch import Tensor

from circa_train.fault import SignTest, fault_probability
from circa_train.field import largest_centred
from circa_train.fixed_point import FracBits, scale_like


def squared_damage(z: Tensor, spec: SignTest, frac_bits: FracBits, exponent: int = 0) -> Tensor:
    """The expected squared error of every output, in units of z: float64, shaped like ``z``.

    Args:
        z: finite pre-activations; dimension 1 is the channel.
        spec: the sign test.
        frac_bits: fraction bits at which it sees z: of all channels, or one number per channel.
        exponent: the network is rewritten so that z arrives there 2^exponent times as large.
    """
    exact = z.double()
    scaled = torch.round(exact * scale_like(frac_bits, exact) * 2.0**exponent)
    fits = scaled.abs() <= largest_centred(spec.prime)
    x = torch.where(fits, scaled, 0.0).long()
    answer = _answer_to_zero(spec, z.device)
    if answer is None:
        x = torch.where(x == 0, exact.sign().long(), x)
    wrong = fault_probability(x, spec)
    if answer is not None:
        wrong = torch.where(x == 0, (exact > 0) != answer, wrong)
    return torch.where(fits, exact * exact * wrong, torch.inf)


def _answer_to_zero(spec: SignTest, device: torch.device) -> bool | None:
    """What the test answers to x = 0, whatever the mask; None if that depends on the mask."""
    if spec.is_exact:
        return None
    masks = spec.masks_at(torch.arange(_MASKS, device=device), seed=0, site=0, draw=0)
    answers = spec.channels()[0].gate(torch.zeros(_MASKS, dtype=torch.int64, device=device), masks)
    return bool(answers[0]) if bool((answers == answers[0]).all()) else None


#: Masks that a zero is tried with. Of Circa's sign test all give the same answer.
_MASKS = 1024
