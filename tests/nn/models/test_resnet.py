"""ResNets: the papers' ReLU counts, one call per ReLU module, shapes of both shortcuts, initialisation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import fx, nn

from circa_train.nn.models.kept_relus import relu_shapes
from circa_train.nn.models.resnet import BasicBlock, PadShortcut, ResNet, cifar_resnet, resnet18


@pytest.mark.parametrize(
    ("build", "size", "relus"),
    [
        (lambda: cifar_resnet(32, num_classes=10), 32, 303_104),
        (lambda: cifar_resnet(32, num_classes=200), 64, 1_212_416),
        (lambda: resnet18(num_classes=10), 32, 557_056),
        (lambda: resnet18(num_classes=200), 64, 2_228_224),
    ],
    ids=["resnet32 at 32", "resnet32 at 64", "resnet18 at 32", "resnet18 at 64"],
)
def test_relus_per_image_are_those_of_the_papers(build, size, relus):
    shapes = relu_shapes(build(), (3, size, size))  # refuses a module that is called twice
    assert sum(math.prod(shape) for shape in shapes.values()) == relus


@pytest.mark.parametrize("depth", [8, 20, 44, 56])
def test_depth_counts_the_layers_with_weights(depth):
    model = cifar_resnet(depth, num_classes=10)
    layers = [module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    assert len(layers) == depth  # option A adds none


def test_stages_list_the_sites_in_the_order_they_run():
    model = resnet18(num_classes=10, width=0.125)
    listed = [site for sites in model.relu_stages().values() for site in sites]
    assert listed == list(relu_shapes(model, (3, 16, 16)))
    assert list(model.relu_stages()) == ["stem", "layer1", "layer2", "layer3", "layer4"]


@pytest.mark.parametrize("shortcut", ["A", "B"])
@pytest.mark.parametrize("size", [7, 8, 32])
def test_any_size_and_channel_count_goes_through_and_can_be_traced(shortcut, size):
    model = cifar_resnet(8, num_classes=5, in_channels=1, shortcut=shortcut).eval()
    images = torch.randn(2, 1, size, size, generator=torch.Generator().manual_seed(0))
    assert model(images).shape == (2, 5)
    assert torch.equal(fx.symbolic_trace(model)(images), model(images))


def test_pad_shortcut_keeps_every_other_pixel_between_zero_channels():
    x = torch.randn(2, 3, 5, 5)
    y = PadShortcut(3, 8, 2)(x)
    assert y.shape == (2, 8, 3, 3)
    assert torch.equal(y[:, 2:5], x[:, :, ::2, ::2])
    assert not y[:, :2].any()
    assert not y[:, 5:].any()


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_a_block_without_its_branch_is_its_shortcut(shortcut):
    block = BasicBlock(16, 32, 2, shortcut).eval()
    nn.init.zeros_(block.bn2.weight)
    x = torch.randn(2, 16, 8, 8)
    assert torch.equal(block(x), torch.relu(block.shortcut(x)))


def test_convolutions_keep_the_scale_of_the_gradient():
    # Kaiming, fan out: variance 2 / (out channels * 9). The sample variance of n normals spreads by sqrt(2 /
    # n).
    weight = cifar_resnet(8, num_classes=10).layer3[0].conv2.weight
    ratio = weight.var().item() * 64 * 9 / 2
    assert abs(ratio - 1) < 5 * (2 / weight.numel()) ** 0.5


def test_relus_are_out_of_place():
    assert not any(
        module.inplace for module in resnet18(num_classes=2).modules() if isinstance(module, nn.ReLU)
    )


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: cifar_resnet(34, num_classes=10), "8, 20, 32, 44, 56"),
        (lambda: resnet18(num_classes=10, shortcut="C"), "'C'"),
        (lambda: resnet18(num_classes=10, width=0), "positive"),
        (lambda: ResNet([1], [4, 8], num_classes=2, shortcut="A"), "same stages"),
        (lambda: ResNet([1, 1], [8, 4], num_classes=2, shortcut="A"), "shortcut B"),
    ],
)
def test_wrong_arguments_are_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call()
