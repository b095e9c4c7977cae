"""VGG-16: ReLU counts, averages instead of maxima, torchvision's names, sizes it cannot take."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from circa_train.nn.models.kept_relus import relu_shapes
from circa_train.nn.models.vgg import VGG16


@pytest.mark.parametrize(("size", "classes", "relus"), [(32, 10, 284_672), (64, 200, 1_114_112)])
def test_relus_per_image_are_those_of_the_papers(size, classes, relus):
    model = VGG16(num_classes=classes, image_size=size)
    shapes = relu_shapes(model, (3, size, size))
    assert sum(math.prod(shape) for shape in shapes.values()) == relus
    assert [site for sites in model.relu_stages().values() for site in sites] == list(shapes)


def test_batchnorm_follows_every_convolution_and_pooling_is_linear():
    layers = list(VGG16(num_classes=10, image_size=32, width=1 / 16).features)
    convolutions = [i for i, layer in enumerate(layers) if isinstance(layer, nn.Conv2d)]
    assert len(convolutions) == 13
    for i in convolutions:
        assert isinstance(layers[i + 1], nn.BatchNorm2d)
        assert isinstance(layers[i + 2], nn.ReLU)
    assert sum(isinstance(layer, nn.AvgPool2d) for layer in layers) == 5
    assert not any(isinstance(layer, nn.MaxPool2d) for layer in layers)


def test_convolutions_have_the_names_and_shapes_of_torchvision():
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        theirs = torchvision.models.vgg16_bn().state_dict()
        ours = VGG16(num_classes=1000, image_size=32).state_dict()
    assert list(ours) == list(theirs)
    assert all(ours[key].shape == theirs[key].shape for key in ours if key != "classifier.0.weight")


def test_new_logits_are_small():
    model = VGG16(num_classes=10, image_size=32, width=0.25).eval()
    logits = model(torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    loss = nn.functional.cross_entropy(logits, torch.arange(4))
    assert logits.shape == (4, 10)
    assert loss.item() < 2 * math.log(10)


@pytest.mark.parametrize("size", [28, 48, 16])
def test_a_size_that_cannot_be_halved_five_times_is_refused(size):
    with pytest.raises(ValueError, match=f"multiple of 32, not {size}"):
        VGG16(num_classes=10, image_size=size)
