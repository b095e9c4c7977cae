"""Layers from traces: the description goes there and back, and whatever has no layer is refused by its
name.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from circa_train.export import ExportError, fold_batch_norms
from circa_train.export.graph import layer_graph
from circa_train.export.layers import (
    Conv2d,
    Gather,
    Pad,
    Reshape,
    Slice,
    SumPool,
    layer_from_dict,
    layer_to_dict,
)
from circa_train.nn.convert import ConversionError
from circa_train.nn.models.registry import build_model


class Wrap(nn.Module):
    """A convolution and a ReLU, then ``tail``."""

    def __init__(self, tail) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.relu = nn.ReLU()
        self.tail = tail

    def forward(self, x):
        return self.tail(self.relu(self.conv(x)))


class Call(nn.Module):
    """Any function as a module called ``odd``."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def graph_of(model, shape=(2, 8, 8)):
    return layer_graph(fold_batch_norms(model)[0], shape)


REFUSED = {
    "layer norm": (nn.LayerNorm(8), r"layer tail \(LayerNorm\)"),
    "constant": (Call(lambda x: x * 2), r"layer tail\.mul"),
    "constant sum": (Call(lambda x: x + 1), r"layer tail\.add .*constants into a bias"),
    "product": (Call(lambda x: x * x), r"layer tail\.mul"),
    "ceil": (nn.MaxPool2d(3, 2, ceil_mode=True), "layer tail .*ceil_mode"),
    "uneven": (nn.AdaptiveAvgPool2d(3), r"layer tail .*not a multiple of \(3, 3\)"),
    "border windows": (nn.AvgPool2d(3, 1, 1, count_include_pad=False), "layer tail .*count_include_pad"),
    "divisor": (nn.AvgPool2d(2, divisor_override=3), "layer tail .*divisor_override"),
    "reflection": (nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), "layer tail .*reflect"),
    "pad with ones": (Call(lambda x: F.pad(x, (1, 1), value=1.0)), r"layer tail\.pad .*only zeros"),
    "one row": (Call(lambda x: x[:, 0]), r"layer tail\.getitem"),
    "batch": (Call(lambda x: x[::2]), r"layer tail\.getitem"),
    "mean over channels": (Call(lambda x: x.mean(1)), r"layer tail\.mean"),
    "transpose": (Call(lambda x: x.transpose(0, 1)), r"layer tail\.transpose .*moves the axis of the images"),
    "broadcast": (Call(lambda x: x + x.mean((2, 3), keepdim=True)), r"layer tail\.add .*shapes"),
    "linear on maps": (nn.Linear(8, 2), "layer tail .*flatten"),
    "softmax": (nn.Softmax(1), r"layer tail \(Softmax\)"),
    "transposed": (nn.ConvTranspose2d(2, 2, 3), r"layer tail \(ConvTranspose2d\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_unsupported_layers_are_refused_by_name(case):
    tail, message = REFUSED[case]
    with pytest.raises(ExportError, match=message):
        graph_of(Wrap(tail))


def test_in_place_sums_are_refused_only_where_they_are_read_again():
    def harmless(x):
        y = x + x
        y += x
        return y

    def harmful(x):
        y = x + x
        z = y.add_(x)
        return torch.cat([y, z], 1)

    graph_of(Wrap(Call(harmless)))
    with pytest.raises(ExportError, match=r"layer tail\.add#2 .*in place"):
        graph_of(Wrap(Call(harmful)))


def test_other_activations_and_several_results_are_refused():
    with pytest.raises(ConversionError, match="tail"):
        graph_of(Wrap(nn.GELU()))
    with pytest.raises(ExportError, match="not one tensor"):
        graph_of(Wrap(Call(lambda x: (x, x))))


def test_shortcut_a_is_slices_and_zeros():
    graph = graph_of(build_model("resnet8", num_classes=4, image_size=8, width=0.5, in_channels=2, seed=0))
    layers = {layer.name: layer for layer in graph.layers}
    cut, pad = layers["layer2.0.shortcut.getitem"], layers["layer2.0.shortcut.pad"]
    assert isinstance(cut, Slice)
    assert cut.slices == ((0, 8, 1), (0, 8, 2), (0, 8, 2))
    assert isinstance(pad, Pad)
    assert pad.widths == ((4, 4), (0, 0), (0, 0))
    assert isinstance(layers["pool"], SumPool)
    assert layers["pool"].window == 4
    assert graph.output == "linear"
    assert [layer.site for layer in graph.sites] == list(range(7))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.relu(self.conv(self.relu(self.conv(x))))


def test_modules_called_twice_get_two_names():
    graph = graph_of(Twice())
    assert [layer.name for layer in graph.layers] == ["input", "conv", "relu", "conv#2", "relu#2"]
    assert torch.equal(graph.tensors["conv.weight"], graph.tensors["conv#2.weight"])


def test_masked_relus_gather_and_scatter():
    masks = {"relu": torch.tensor([True, False] * 4), "layer1.0.relu1": torch.rand(8, 8, 8) < 0.5}
    model = build_model(
        "resnet8", num_classes=4, image_size=8, width=0.5, in_channels=2, reduction={"masks": masks}, seed=0
    )
    graph = graph_of(model)
    layers = {layer.name: layer for layer in graph.layers}
    assert isinstance(layers["relu.index_select"], Gather)
    assert layers["relu.relu"].shape == (4, 8, 8)
    assert layers["layer1.0.relu1.relu"].shape == (int(masks["layer1.0.relu1"].sum()),)
    assert graph.tensors["relu.index_select.index"].tolist() == [0, 2, 4, 6]


@pytest.mark.parametrize(
    "layer",
    [
        Conv2d("a", ("input",), (2, 4, 4), (1, 2), (0, 1), (1, 1), 2),
        Slice("b", ("a",), (1, 2, 2), ((0, 1, 1), (0, 4, 2), (0, 4, 2))),
        Reshape("c", ("b",), (4,)),
    ],
)
def test_descriptions_go_there_and_back(layer):
    assert layer_from_dict(layer_to_dict(layer)) == layer


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "lambda"}, "unknown kind 'lambda'"),
        ({"extra": 1}, "needs the fields"),
        ({"shape": [1.5]}, "field shape: 1.5 is not an integer"),
        ({"inputs": [3]}, "field inputs: 3 is not a name"),
    ],
)
def test_descriptions_are_checked(change, message):
    description = layer_to_dict(Reshape("c", ("b",), (4,))) | change
    with pytest.raises(ValueError, match=message):
        layer_from_dict(description)
