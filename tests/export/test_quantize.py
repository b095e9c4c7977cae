"""Scales: what is rounded to what, where division goes, and which fraction bits are chosen."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import nn

from circa_train.export import ExportError, Format, Scale, fold_batch_norms
from circa_train.export.graph import layer_graph
from circa_train.export.layers import ReLU, Rescale, Shift, SumPool
from circa_train.export.quantize import calibrate, choose_format, quantize
from circa_train.fixed_point import FixedPointOverflow
from circa_train.nn.models.registry import build_model

FIXED = Format(8, 10)


def plan_of(model, shape, fixed=FIXED):
    return quantize(layer_graph(fold_batch_norms(model)[0], shape), fixed)


def test_weights_round_half_even_and_biases_have_the_accumulators_scale():
    linear = nn.Linear(3, 1)
    linear.weight.data = torch.tensor([[0.5, 1.5, -2.5]]) / 2**10
    linear.bias.data = torch.tensor([3.0]) + 2.5 / 2**18
    plan = plan_of(nn.Sequential(linear, nn.ReLU()), (3,))
    assert plan.tensors["0.weight"].tolist() == [[0, 2, -2]]
    assert plan.tensors["0.bias"].tolist() == [3 * 2**18 + 2]
    assert plan.scales["0"] == Scale(18)
    assert plan.tensors["0.weight"].dtype == torch.int32


def test_every_sum_and_every_site_is_at_the_accumulators_scale():
    plan = plan_of(
        build_model("resnet8", num_classes=4, image_size=8, width=0.25, shortcut="A", seed=0), (3, 8, 8)
    )
    scales = {layer.name: plan.scales[layer.name].frac_bits for layer in plan.layers}
    assert all(
        scales[layer.name] == 18 for layer in plan.layers if layer.kind in ("relu", "add", "conv2d", "linear")
    )
    assert all(scales[layer.inputs[0]] == 8 for layer in plan.layers if layer.kind in ("conv2d", "linear"))
    for layer in plan.layers:
        if isinstance(layer, Rescale):
            assert scales[layer.inputs[0]] - scales[layer.name] == layer.bits > 0


def test_a_value_is_rescaled_once_however_many_read_it():
    plan = plan_of(
        build_model("resnet8", num_classes=4, image_size=8, width=0.25, shortcut="B", seed=0), (3, 8, 8)
    )
    readers = [layer.name for layer in plan.layers if "layer1.0.relu2.at8" in layer.inputs]
    assert readers == ["layer2.0.conv1", "layer2.0.shortcut.0"]
    addresses = [layer.site for layer in plan.layers if isinstance(layer, (ReLU, Rescale))]
    assert len(set(addresses)) == len(addresses)


@pytest.mark.parametrize(
    ("window", "bits", "factor"), [(2, 2, Fraction(1)), (3, 4, Fraction(16, 9)), (8, 6, Fraction(1))]
)
def test_the_division_of_a_pooling_goes_into_scale_and_weights(window, bits, factor):
    conv = nn.Conv2d(1, 1, 1)
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.AvgPool2d(window), conv)
    plan = plan_of(model, (1, 24, 24))
    pool = next(layer for layer in plan.layers if isinstance(layer, SumPool))
    assert plan.scales[pool.inputs[0]].frac_bits == 18 - bits
    assert plan.scales[pool.name] == Scale(18, factor)
    assert plan.tensors["3.weight"].item() == round(float(factor) * conv.weight.item() * 2**10)
    assert plan.scales["3"] == Scale(18)


def test_coarser_values_are_shifted_up_to_a_site():
    plan = plan_of(nn.Sequential(nn.ReLU(), nn.Conv2d(1, 1, 1)), (1, 4, 4))
    assert [layer.kind for layer in plan.layers] == ["input", "shift", "relu", "rescale", "conv2d"]
    shift = plan.layers[1]
    assert isinstance(shift, Shift)
    assert shift.bits == 10


class Joined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.pool = nn.AvgPool2d(3, 1, padding=1)

    def forward(self, x):
        x = self.relu(x)
        return self.pool(x) + x


def test_sums_of_different_factors_are_refused_by_name():
    with pytest.raises(ExportError, match=r"layer add joins values of different factors \(16/9, 1\)"):
        plan_of(Joined(), (1, 6, 6))


def test_weights_beyond_the_field_are_refused_by_name():
    linear = nn.Linear(2, 1)
    linear.weight.data.fill_(7.0)
    with pytest.raises(ExportError, match=r"layer 0: weight reaches 7, .* exceeds \(p-1\)/2 = 125"):
        plan_of(nn.Sequential(linear, nn.ReLU()), (2,), Format(0, 5, 251))


def test_chosen_bits_hold_values_of_fifteen_bits_with_the_headroom_asked_for():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    folded, _ = fold_batch_norms(model)
    graph = layer_graph(folded, (1, 8, 8))
    ranges = calibrate(folded, [torch.randn(16, 1, 8, 8)])
    largest = max(max(-low, high) for low, high in ranges.values())
    chosen = choose_format(graph, ranges, headroom_bits=5)
    assert largest * 2 ** (chosen.accumulator_frac_bits + 5) <= chosen.prime // 2
    weights = max(
        float(tensor.abs().max()) for name, tensor in graph.tensors.items() if name.endswith("weight")
    )
    assert weights * 2**chosen.weight_frac_bits < 2**14
    read = max(max(-ranges[name][0], ranges[name][1]) for name in ("input", "1"))
    assert read * 2**chosen.activation_frac_bits < 2**14
    narrow = choose_format(graph, ranges, headroom_bits=0, value_bits=6)
    assert weights * 2**narrow.weight_frac_bits < 2**5 <= weights * 2 ** (narrow.weight_frac_bits + 1)
    assert read * 2**narrow.activation_frac_bits < 2**5 <= read * 2 ** (narrow.activation_frac_bits + 1)
    given = choose_format(graph, ranges, frac_bits=18, weight_frac_bits=7)
    assert (given.activation_frac_bits, given.weight_frac_bits) == (11, 7)
    assert choose_format(graph, ranges, frac_bits=30).accumulator_frac_bits == 30
    with pytest.raises(ValueError, match="weight_frac_bits = 19"):
        choose_format(graph, ranges, frac_bits=18, weight_frac_bits=19)
    with pytest.raises(ValueError, match="headroom_bits = 40"):
        choose_format(graph, ranges, headroom_bits=40)
    with pytest.raises(FixedPointOverflow):
        choose_format(graph, {"input": (-1e10, 1e10)})


def test_calibration_sees_every_layer_and_refuses_what_is_not_finite():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    folded, _ = fold_batch_norms(model)
    layer_graph(folded, (2,))
    ranges = calibrate(folded, [torch.tensor([[1.0, -3.0]]), (torch.tensor([[2.0, 0.0]]), None)])
    assert list(ranges) == ["input", "0", "1"]
    assert ranges["input"] == (-3.0, 2.0)
    assert ranges["1"][0] == 0
    with pytest.raises(ValueError, match="layer input: 1 of 2"):
        calibrate(folded, [torch.tensor([[float("nan"), 0.0]])])
    with pytest.raises(ValueError, match="batches is empty"):
        calibrate(folded, [])
