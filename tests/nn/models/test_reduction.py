"""ReLU-reduced networks: identity where a ReLU is gone, exactly the kept elements in the rest, refusals by
name.
"""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import fx, nn

from circa_train.fault import NoFault
from circa_train.nn.convert import with_stochastic_relus
from circa_train.nn.models.kept_relus import random_masks, relu_shapes
from circa_train.nn.models.mask_files import save_masks
from circa_train.nn.models.reduction import MaskedReLU, Reduction, portable, reduce_relus
from circa_train.nn.models.registry import build_model
from circa_train.nn.sites import relu_sites

INPUT = (1, 16, 16)


def build(reduction=None):
    return build_model("resnet8", num_classes=4, image_size=16, in_channels=1, reduction=reduction, seed=3)


def masks(keep=0.3, **options):
    return random_masks(build(), INPUT, keep, **options)


def reference_mask(shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.4


@pytest.mark.parametrize("shape", [(4, 5, 5), (12,)])
def test_masked_relu_is_relu_where_kept_and_the_identity_elsewhere(shape):
    mask = reference_mask(shape)
    x = torch.randn(3, *shape, requires_grad=True)
    layer = MaskedReLU(mask)
    seen = []
    layer.relu.register_forward_hook(lambda _, args, __: seen.append(args[0]))
    y = layer(x)
    assert torch.equal(y, torch.where(mask, torch.relu(x), x))
    assert torch.equal(seen[0], x[:, mask])  # the site sees the kept elements, in their order, and no other
    y.sum().backward()
    assert torch.equal(x.grad, torch.where(mask & (x <= 0), 0.0, 1.0))
    assert torch.equal(fx.symbolic_trace(layer)(x), y)


def test_whole_channels_keep_their_axes():
    mask = torch.tensor([True, False, True])[:, None, None].expand(3, 4, 4)
    layer = MaskedReLU(mask)
    seen = []
    layer.relu.register_forward_hook(lambda _, args, __: seen.append(tuple(args[0].shape)))
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(layer(x), torch.where(mask, torch.relu(x), x))
    assert seen == [(2, 2, 4, 4)]


@pytest.mark.parametrize("mask", [torch.zeros(3, dtype=torch.bool), torch.ones(3), torch.tensor(True)])
def test_masked_relu_refuses_what_is_no_mask(mask):
    with pytest.raises(ValueError, match="at least one True"):
        MaskedReLU(mask)


@pytest.mark.parametrize(
    ("reduction", "gone"),
    [
        ({"stages": ["layer1", "stem"]}, {"relu", "layer1.0.relu1", "layer1.0.relu2"}),
        ({"alternate": True}, {"layer1.0.relu2", "layer2.0.relu2", "layer3.0.relu2"}),
        ({"alternate": ["layer2"]}, {"layer2.0.relu2"}),
        ({"sites": ["layer3.0.relu1"]}, {"layer3.0.relu1"}),
        (
            {"stages": ["layer1"], "alternate": ["layer1", "layer3"]},
            {"layer1.0.relu1", "layer1.0.relu2", "layer3.0.relu2"},
        ),
        ({}, set()),
    ],
)
def test_whole_layers_become_the_identity(reduction, gone):
    full, reduced = build(), build(reduction)
    expected = {site: shape for site, shape in relu_shapes(full, INPUT).items() if site not in gone}
    assert relu_shapes(reduced, INPUT) == expected
    assert all(isinstance(reduced.get_submodule(site), nn.Identity) for site in gone)
    assert list(reduced.state_dict()) == list(full.state_dict())


def test_masks_leave_parameters_and_count_what_they_keep():
    kept = masks(0.3)
    full, reduced = build(), build({"masks": kept})
    reduced.load_state_dict(full.state_dict())  # strict: masks are not part of the state
    count = sum(math.prod(shape) for shape in relu_shapes(reduced, INPUT).values())
    assert count == sum(int(mask.sum()) for mask in kept.values())
    x = torch.randn(2, *INPUT)
    expected = build()
    for site, mask in kept.items():
        parent, _, leaf = site.rpartition(".")
        setattr(expected.get_submodule(parent), leaf, WhereKept(mask))
    assert torch.equal(reduced.eval()(x), expected.eval()(x))


class WhereKept(nn.Module):
    """The obvious formula."""

    def __init__(self, mask):
        super().__init__()
        self.mask = mask

    def forward(self, x):
        return torch.where(self.mask, torch.relu(x), x)


def test_full_and_empty_masks_need_no_gathering():
    reduced = build({"masks": {"relu": torch.ones(16, dtype=torch.bool), "layer1.0.relu1": torch.zeros(16)}})
    assert type(reduced.relu) is nn.ReLU
    assert type(reduced.layer1[0].relu1) is nn.Identity


@pytest.mark.parametrize("shape", [(16,), (16, 1, 1), (1, 16, 16), (16, 16, 16), (1, 16, 16, 16)])
def test_mask_shapes_that_fit(shape):
    mask = reference_mask(shape)
    reduced = build({"masks": {"relu": mask}})
    per_image = mask[0] if mask.ndim == 4 else mask.reshape(shape if mask.ndim == 3 else (16, 1, 1))
    x = torch.randn(2, 16, 16, 16)
    assert torch.equal(reduced.relu(x), torch.where(per_image, torch.relu(x), x))


def test_a_portable_reduction_is_json_and_needs_no_file(tmp_path):
    path = tmp_path / "masks.safetensors"
    save_masks(path, masks())
    written = portable(
        {"stages": ["layer3"], "masks": {k: v for k, v in masks().items() if "layer3" not in k}}
    )
    assert portable(json.loads(json.dumps(written))) == written
    carried = json.loads(json.dumps(portable({"masks": str(path)})))
    path.unlink()
    x = torch.randn(2, *INPUT)
    assert torch.equal(build(carried).eval()(x), build({"masks": masks()}).eval()(x))


@pytest.mark.parametrize(
    "value",
    [{"stages": ["a"], "alternate": ["b"], "sites": ["c"]}, {"alternate": True}, {"masks": "f.npz"}, {}],
)
def test_reduction_values_go_there_and_back(value):
    assert Reduction.from_value(value).to_value() == value


@pytest.mark.parametrize(
    ("reduction", "error", "said"),
    [
        ({"stages": ["layer9"]}, ValueError, "stage 'layer9'.*stem, layer1, layer2, layer3"),
        ({"alternate": ["conv"]}, ValueError, "stage 'conv'"),
        ({"sites": ["layer1.0.relu"]}, ValueError, r"'layer1\.0\.relu'.*relu, layer1\.0\.relu1"),
        ({"masks": {"relu9": torch.ones(1)}}, ValueError, "'relu9'"),
        (
            {"masks": {"relu": torch.ones(15)}},
            ValueError,
            r"'relu' has shape \(15, 1, 1\); the site's shape is \(16, 16, 16\)",
        ),
        ({"masks": {"relu": torch.ones(16, 16)}}, ValueError, "has shape"),
        ({"masks": {"relu": torch.full((16,), 0.5)}}, ValueError, "threshold it"),
        ({"sites": ["relu"], "masks": {"relu": torch.ones(16)}}, ValueError, "removed as well"),
        ({"stage": ["layer1"]}, ValueError, "no key 'stage'; it has stages"),
        ({"stages": "layer1"}, ValueError, "list of names"),
        ("layer1", TypeError, "is a dict"),
    ],
)
def test_what_does_not_exist_or_fit_is_refused(reduction, error, said):
    with pytest.raises(error, match=said):
        build(reduction)


def test_a_relu_called_at_several_places_is_refused():
    shared = nn.ReLU()
    model = nn.Sequential(nn.Linear(4, 4), shared, nn.Linear(4, 4), shared)
    with pytest.raises(ValueError, match="called at several places"):
        reduce_relus(model, {"sites": ["1"]}, (4,))


def test_other_networks_have_stages_by_the_first_part_of_the_name():
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Sequential(nn.ReLU(), nn.ReLU()))
    assert list(relu_shapes(reduce_relus(model, {"stages": ["0"], "alternate": ["1"]}, (4,)), (4,))) == [
        "1.0"
    ]


@pytest.mark.parametrize("granularity", ["pixel", "channel"])
def test_conversion_meets_exactly_the_kept_elements(granularity):
    kept = masks(0.3, granularity=granularity)
    reduced = build({"masks": kept}).eval()
    converted = with_stochastic_relus(reduced, NoFault(), frac_bits=16, seed=0)
    assert list(converted.state_dict()) == list(build().state_dict())
    counts = dict(relu_sites(converted, INPUT))
    assert counts == {f"{site}.relu": int(mask.sum()) for site, mask in kept.items()}
    x = torch.randn(2, *INPUT)
    assert torch.equal(converted(x), reduced(x))
