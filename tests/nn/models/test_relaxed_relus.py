"""Relaxed ReLUs: the two ends to the last bit, the gradient by the formula, and what cannot be relaxed."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from circa_train.fault import TruncatedSign
from circa_train.nn.convert import with_stochastic_relus
from circa_train.nn.models.kept_relus import random_masks
from circa_train.nn.models.reduction import reduce_relus
from circa_train.nn.models.registry import build_model
from circa_train.nn.models.relaxed_relus import RelaxedReLU, harden_relus, relax_relus

INPUT = (1, 16, 16)


def small():
    return build_model("resnet8", num_classes=4, image_size=16, in_channels=1, seed=3)


@pytest.mark.parametrize("granularity", ["pixel", "channel"])
def test_ones_and_zeros_are_the_masked_network_to_the_last_bit(granularity):
    masks = random_masks(small(), INPUT, 0.4, granularity=granularity, seed=2)
    reduced, relaxed = reduce_relus(small(), {"masks": masks}, INPUT), small()
    for site, relu in relax_relus(relaxed, INPUT, granularity).items():
        kept = masks[site] if granularity == "pixel" else masks[site][:, :1, :1]
        relu.alpha = kept.float()
    x = torch.randn(3, *INPUT)
    with torch.no_grad():
        expected = reduced.eval()(x)
        assert torch.equal(relaxed.eval()(x), expected)
        harden_relus(relaxed, masks)
        assert torch.equal(relaxed(x), expected)
    assert [type(module) for module in relaxed.modules()] == [type(module) for module in reduced.modules()]


@pytest.mark.parametrize(("granularity", "shape"), [("pixel", (3, 4, 5)), ("channel", (3, 1, 1))])
def test_values_and_gradients_are_those_of_the_formula(granularity, shape):
    relu = RelaxedReLU((3, 4, 5), granularity, torch.device("cpu"))
    assert relu.alpha.shape == shape
    assert relu.relus == 60 // relu.alpha.numel()
    relu.alpha = torch.rand(shape, dtype=torch.float64, requires_grad=True)
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    expected = relu.alpha * F.relu(x) + (1 - relu.alpha) * x
    torch.testing.assert_close(relu(x), expected, rtol=1e-14, atol=1e-14)
    weight = torch.randn_like(expected)
    ours = torch.autograd.grad((relu(x) * weight).sum(), (x, relu.alpha))
    theirs = torch.autograd.grad((expected * weight).sum(), (x, relu.alpha))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_a_relaxed_network_is_the_network_at_first_and_has_its_weights_alone():
    full, relaxed = small(), small()
    relax_relus(relaxed, INPUT, "pixel")
    x = torch.randn(2, *INPUT)
    assert torch.equal(relaxed.eval()(x), full.eval()(x))
    assert list(relaxed.state_dict()) == list(full.state_dict())
    assert len(list(relaxed.parameters())) == len(list(full.parameters()))


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(1, 1, 1), nn.ReLU()

    def forward(self, x):
        return F.relu(self.conv(self.relu(x)))


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (lambda: nn.Sequential(nn.Conv2d(1, 1, 1), nn.Flatten()), "no nn.ReLU module"),
        (lambda: with_stochastic_relus(small(), TruncatedSign(3), frac_bits=10), "fault=none"),
        (lambda: reduce_relus(small(), {"masks": {"relu": torch.arange(16) > 3}}, INPUT), "masks over its"),
        (Functional, "no nn.ReLU modules and cannot be replaced"),
    ],
)
def test_what_cannot_be_relaxed_is_refused_and_left_as_it_was(network, said):
    model = network()
    with pytest.raises(ValueError, match=said):
        relax_relus(model, INPUT, "pixel")
    assert not any(isinstance(module, RelaxedReLU) for module in model.modules())
