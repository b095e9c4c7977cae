"""Rewriting a network channel by channel: the same bits, the way back, what is tied, kept and named, and the
scales that the law chooses.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
import torchvision.models as theirs
from networks import Everything
from torch import Tensor, nn
from zoo import ZOO

from circa_train import (
    NoFault,
    TruncatedSign,
    UniformFault,
    build_model,
    equalize,
    fault_probability,
    with_stochastic_relus,
)
from circa_train.fixed_point import FixedPointOverflow
from circa_train.nn.control import set_draw, stochastic_relus
from circa_train.nn.convert import ConversionError, StochasticNetwork
from circa_train.nn.damage import squared_damage
from circa_train.nn.equalizing.groups import ChannelGroups, channel_groups
from circa_train.nn.equalizing.scaling import ScaleError, apply_scales, reciprocals

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def prepared(model: nn.Module) -> nn.Module:
    """As if it were trained: statistics, weights and biases of normalisations are not those of a new one."""
    generator = torch.Generator().manual_seed(1)

    def random(like: Tensor) -> Tensor:
        return torch.rand(like.shape, generator=generator)

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.copy_(random(module.running_mean) - 0.5)
                module.running_var.copy_(random(module.running_var) + 0.5)
                module.weight.copy_(random(module.weight) + 0.5)
                module.bias.copy_(random(module.bias) - 0.5)
    return model.eval()


def random_scales(groups: ChannelGroups, seed: int = 0) -> list[float]:
    generator, scales = torch.Generator().manual_seed(seed), [1.0] * groups.count
    for group in groups.free:
        scales[group] = 2.0 ** int(torch.randint(-5, 6, (1,), generator=generator))
    return scales


def ours(name: str, **options: object) -> Callable[[], nn.Module]:
    return lambda: build_model(name, num_classes=10, image_size=32, seed=0, **options)


#: (network, input shape, are all sites free in every channel?)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], bool]] = {
    "resnet8": (ours("resnet8"), (3, 16, 16), True),
    "resnet8, shortcut B": (ours("resnet8", shortcut="B"), (3, 16, 16), True),
    "resnet20, reduced": (
        ours("resnet20", reduction={"stages": ["layer2"], "alternate": True}),
        (3, 16, 16),
        True,
    ),
    "resnet18": (ours("resnet18", width=0.25), (3, 16, 16), True),
    "their resnet18": (lambda: theirs.resnet18(num_classes=10), (3, 32, 32), True),
    "shufflenet": (lambda: theirs.shufflenet_v2_x0_5(num_classes=10), (3, 32, 32), True),
    "squeezenet": (lambda: theirs.squeezenet1_1(num_classes=10), (3, 32, 32), False),
    "densenet": (lambda: theirs.DenseNet(8, (2, 3), 16, num_classes=10), (3, 32, 32), False),
}
SLOW = {
    "regnet": (lambda: theirs.regnet_y_400mf(num_classes=10), (3, 32, 32), True),
    "alexnet": (lambda: theirs.alexnet(num_classes=10), (3, 64, 64), True),
    "vgg11_bn": (lambda: theirs.vgg11_bn(num_classes=10), (3, 32, 32), True),
    "vgg16": (ours("vgg16", width=0.25), (3, 32, 32), True),
    "resnet32": (ours("resnet32"), (3, 32, 32), True),
    "densenet121": (lambda: theirs.densenet121(), (3, 32, 32), False),
    "googlenet": (lambda: theirs.googlenet(aux_logits=False, init_weights=False), (3, 64, 64), True),
    "inception": (lambda: theirs.inception_v3(aux_logits=False, init_weights=False), (3, 80, 80), True),
}


def check_rewriting(model: nn.Module, images: Tensor) -> ChannelGroups:
    """Random powers of two at every free group: the same bits in both modes, and back."""
    before = copy.deepcopy(model.state_dict())
    groups = channel_groups(model, images)
    scales = random_scales(groups)
    network = apply_scales(model, groups, scales)
    assert type(network) is type(model)
    assert list(network.state_dict()) == list(before)
    assert all(torch.equal(model.state_dict()[key], before[key]) for key in before), (
        "the given one is as it was"
    )
    with torch.no_grad():
        want, got = model(images), network(images)
        assert torch.equal(got, want)
    assert not groups.free or any(
        not torch.equal(a, b) for a, b in zip(model.parameters(), network.parameters(), strict=True)
    )
    back = apply_scales(network, groups, reciprocals(scales))
    assert all(torch.equal(back.state_dict()[key], before[key]) for key in before)
    outputs = []
    for net in (model.train(), network.train()):
        torch.manual_seed(0)
        outputs.append(net(images))
    assert torch.equal(*outputs), "in training mode, too"
    for (name, a), b in zip(model.named_buffers(), network.buffers(), strict=True):
        assert torch.equal(a, b), f"{name}: statistics are those of the network as it was"
    return groups


@pytest.mark.parametrize("name", [*NETWORKS, *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW)])
def test_the_same_bits_and_back(name: str) -> None:
    make, shape, all_free = {**NETWORKS, **SLOW}[name]
    torch.manual_seed(0)
    images = torch.randn((2, *shape), generator=torch.Generator().manual_seed(2))
    groups = check_rewriting(prepared(make()), images)
    assert groups.free
    kept = {site: groups.reasons(site) for site in groups.sites if groups.reasons(site)}
    assert (not kept) == all_free, kept


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")
@pytest.mark.parametrize("name", ZOO)
def test_networks_of_strangers(name: str) -> None:
    if name == "root gate":
        return
    torch.manual_seed(0)
    model = ZOO[name]().eval()
    groups = channel_groups(model, IMAGES)
    network = apply_scales(model, groups, random_scales(groups))
    with torch.no_grad():
        want, got = model(IMAGES), network(IMAGES)
    for a, b in zip(*((v.values() if isinstance(v, dict) else [v]) for v in (want, got)), strict=True):
        assert torch.equal(a, b)


def test_every_way_of_calling_a_relu() -> None:
    torch.manual_seed(0)
    groups = check_rewriting(prepared(Everything()), IMAGES)
    free = [site for site in groups.sites if not groups.reasons(site)]
    assert free == ["block.body.1"], "a constant is subtracted behind every other"


def test_what_is_tied_and_what_is_not() -> None:
    """On the residual network: one group per channel of a stage, and none in common inside the blocks."""
    groups = channel_groups(build_model("resnet8", num_classes=10, image_size=32, seed=0), (3, 8, 8))
    channels = {site: [int(g) for g in places[:, 0, 0]] for site, places in groups.sites.items()}
    assert channels["relu"] == channels["layer1.0.relu2"], "a residual sum"
    assert channels["layer1.0.relu2"] == channels["layer2.0.relu2"][8:24], "option A pads on both sides"
    assert channels["layer2.0.relu2"] == channels["layer3.0.relu2"][16:48]
    inside = [g for site, groups_of in channels.items() if site.endswith("relu1") for g in groups_of]
    outside = {*channels["layer3.0.relu2"]}
    assert len(set(inside)) == len(inside) == 16 + 32 + 64
    assert not outside & set(inside)
    assert len(groups.free) == 16 + 32 + 64 + 64
    assert torch.equal(groups.makers["layer1.0.bn1"], groups.sites["layer1.0.relu1"][:, 0, 0])
    assert torch.equal(groups.readers["layer1.0.conv2"], groups.makers["layer1.0.bn1"])


class Concatenated(nn.Module):
    """A concatenation, a depthwise convolution and a flattening: nothing here must share a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 2, 3, padding=1)
        self.depthwise = nn.Conv2d(6, 12, 3, groups=6)
        self.linear = nn.Linear(12 * 9, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(torch.cat([self.a(x), self.b(x)], 1))
        x = F.max_pool2d(F.relu(self.depthwise(x)), 2)
        return self.linear(torch.flatten(x, 1))


def test_concatenated_depthwise_and_flattened() -> None:
    torch.manual_seed(0)
    groups = check_rewriting(Concatenated(), IMAGES)
    assert len(groups.free) == 4 + 2 + 12
    read = groups.readers["linear"].reshape(12, 9)
    assert torch.equal(read, groups.makers["depthwise"][:, None].expand(12, 9)), "H*W features to a channel"


class Kept(nn.Module):
    """One step, between two convolutions, that does not go with every scale."""

    def __init__(self, step: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.step = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), step

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.step(F.relu(self.a(x))))


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (nn.ReLU6(), "ReLU6 at step reads it, which is not known to be homogeneous"),
        (nn.GELU(), "GELU at step"),
        (nn.Hardswish(), "Hardswish at step"),
        (nn.Sigmoid(), "Sigmoid at step"),
        (nn.Softmax(1), "Softmax at step"),
        (nn.LocalResponseNorm(2), "LocalResponseNorm at step"),
        (nn.BatchNorm2d(3), "BatchNorm2d at step normalises it"),
        (nn.GroupNorm(1, 3), "GroupNorm at step normalises it"),
        (nn.AlphaDropout(), "AlphaDropout at step"),
        (lambda x: x + 1, "joins it with the constant 1"),
        (lambda x: 1 - x, "joins it with the constant 1"),
        (lambda x: 1 / (1 + x), "joins it with the constant 1"),
        (lambda x: x * x, "reads it"),
        (lambda x: x.clamp(max=1), "clamp"),
        (lambda x: x.half().float(), "reads it"),
        (lambda x: F.pad(x, (1, 1), value=1.0), "pad"),
        (lambda x: x - x.new_ones(3, 1, 1), "it meets what new_ones"),
        (torch.exp, "exp"),
    ],
)
def test_what_does_not_go_with_every_scale_is_named(step: Callable[[Tensor], Tensor], reason: str) -> None:
    torch.manual_seed(0)
    groups = channel_groups(Kept(step).eval(), IMAGES)
    assert any(reason in text for text in groups.reasons("relu")), groups.reasons("relu")
    check_rewriting(Kept(step).eval(), IMAGES)


@pytest.mark.parametrize(
    "step",
    [
        nn.LeakyReLU(0.1), nn.PReLU(), nn.MaxPool2d(2), nn.AvgPool2d(3, 1, 1), nn.AdaptiveMaxPool2d(2),
        nn.Upsample(scale_factor=2, mode="bilinear"), nn.ReflectionPad2d(1), nn.ZeroPad2d(1), nn.Dropout(0.5),
        nn.Identity(), nn.ConvTranspose2d(3, 3, 2), nn.Conv2d(3, 3, 1, bias=False), nn.ChannelShuffle(3),
        lambda x: x * 0.5, lambda x: -x, lambda x: x.flip(2).contiguous(),
        lambda x: x + x.mean((2, 3), keepdim=True),
        lambda x: x * torch.sigmoid(x.new_zeros(1)), lambda x: torch.maximum(x, 0.5 * x), lambda x: x / 3,
        lambda x: torch.stack([x, x]).sum(0), lambda x: x.clamp(min=0), lambda x: F.pad(x, (1, 1, 1, 1)),
        lambda x: torch.cat([x[:, 1:], torch.zeros_like(x[:, :1])], 1),
        lambda x: x.chunk(3, 1)[1].repeat(1, 3, 1, 1),
    ],
)  # fmt: skip
def test_what_goes_with_every_scale_is_free(step: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    groups = check_rewriting(Kept(step).eval(), IMAGES)
    assert not groups.reasons("relu")
    assert len(set(groups.makers["a"].tolist())) >= 1
    assert set(groups.makers["a"].tolist()) <= set(groups.free)


class ZerosChanged(nn.Module):
    """Zeros that are filled later, and a padded tensor that is changed in place through a view."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(F.relu(self.a(x)), (0, 0, 0, 0, 0, 1))
        last = padded[:, 3:]
        last += F.relu(self.b(x))[:, 3:]
        filled = torch.zeros_like(padded)
        filled[:, 1:2].copy_(F.relu(self.b(x))[:, 1:2])
        return self.c(F.relu(padded + self.b(x)) + filled)


def test_zeros_that_are_filled_later_are_no_zeros() -> None:
    torch.manual_seed(0)
    check_rewriting(ZerosChanged(), IMAGES)


def test_mobile_networks_are_kept_by_name() -> None:
    """ReLU6 and hard swish do not go with a scale; the narrow layers without either are free."""
    model = prepared(theirs.mobilenet_v2(num_classes=5, width_mult=0.25))
    groups = check_rewriting(model, torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    group = int(groups.makers["features.1.conv.0.1"][0])
    assert any("ReLU6 at features.1.conv.0.2" in reason for reason in groups.kept[group])
    assert set(groups.makers["features.2.conv.3"].tolist()) <= set(groups.free)
    with pytest.raises(ConversionError, match="calls no ReLU"):
        equalize(model, [IMAGES], TruncatedSign(12), frac_bits=12)
    groups = channel_groups(theirs.mobilenet_v3_small(), (3, 32, 32))
    assert any("Hardswish at features.0.2" in text for texts in groups.kept.values() for text in texts)


def test_scales_that_cannot_be_taken() -> None:
    torch.manual_seed(0)
    model = Concatenated()
    groups = channel_groups(model, (3, 8, 8))
    free, kept = groups.free[0], next(iter(groups.kept))
    for scales, message in (
        ({free: 3.0}, "no power of two"),
        ({free: 0.0}, "a scale is a positive number"),
        ({free: float("inf")}, "a scale is a positive number"),
        ({groups.count: 2.0}, "there is no group"),
        ({kept: 2.0}, "has to keep its scale"),
        ({free: 2.0**140}, "would leave the range of torch.float32"),
        ({free: 2.0**-140}, "would leave the range of torch.float32"),
        ([2.0], "give one for each"),
    ):
        with pytest.raises(ScaleError, match=message):
            apply_scales(model, groups, scales)
    network = apply_scales(model, groups, {free: 3.0}, powers_of_two=False)
    torch.testing.assert_close(network(IMAGES), model(IMAGES))


def test_damage_is_the_law_and_what_a_zero_does() -> None:
    """By enumeration: every mask of a small field, every z, both modes."""
    prime, z = 251, torch.tensor([[-3.0, -0.04, 0.04, 0.3, 1.7, 5.0]])
    masks = torch.arange(prime)
    for mode in ("poszero", "negpass"):
        spec = TruncatedSign(3, mode, prime)
        for exponent in (-2, 0, 1):
            x = torch.round(z * 2.0 ** (3 + exponent)).long()
            gates = spec.gate(x[..., None], masks)
            wrong = (gates != (z > 0)[..., None]).double().mean(-1)
            torch.testing.assert_close(squared_damage(z, spec, 3, exponent), z.double() ** 2 * wrong)
    assert squared_damage(torch.tensor([[20.0]]), TruncatedSign(3, prime=prime), 3).item() == float("inf")
    big = torch.tensor([[3.0]])
    law = fault_probability(torch.tensor([[24]]), TruncatedSign(3, prime=prime)) * 9
    torch.testing.assert_close(squared_damage(big, TruncatedSign(3, prime=prime), 3), law)
    assert squared_damage(big, NoFault(), 3).item() == 0


def test_the_least_harmful_scale_of_all_is_taken() -> None:
    """Against the plain sum over every candidate, on a network whose channels are made to differ a lot."""
    torch.manual_seed(0)
    model = Concatenated()
    with torch.no_grad():
        model.a.weight *= torch.tensor([1.0, 0.05, 8.0, 0.3]).reshape(-1, 1, 1, 1)
    spec, bits = TruncatedSign(14), 14
    network, report = equalize(model, [IMAGES[:2], IMAGES[2:]], spec, frac_bits=bits)
    z = torch.cat([model.a(IMAGES), model.b(IMAGES)], 1).detach()
    for channel, group in enumerate(report.groups.sites["relu"][:, 0, 0].tolist()):
        totals = {e: float(squared_damage(z[:, channel, None], spec, bits, e).sum()) for e in range(-8, 9)}
        assert totals[int(torch.tensor(report.scales[group]).log2())] <= 1.001 * min(totals.values())
    assert report.after["relu"] < 0.5 * report.before["relu"]
    assert not report.unscaled()
    assert torch.equal(network(IMAGES), model(IMAGES))
    errors = []
    for net in (model, network):
        faulty = with_stochastic_relus(net, spec, frac_bits=bits, seed=3)
        runs = [(set_draw(faulty, d), faulty(IMAGES))[1] for d in range(20)]
        errors.append(sum(((y - model(IMAGES)) ** 2).mean().item() for y in runs))
    assert errors[1] < 0.5 * errors[0], "and the outputs suffer less"


def test_a_converted_network_keeps_what_it_is() -> None:
    model = prepared(build_model("resnet8", num_classes=10, image_size=32, seed=0))
    converted = with_stochastic_relus(model, TruncatedSign(18), frac_bits=18, seed=7)
    network, report = equalize(converted, [IMAGES])
    plain, same = equalize(model, [IMAGES], TruncatedSign(18), frac_bits=18)
    assert report.scales == same.scales
    assert isinstance(network, StochasticNetwork)
    assert {r.settings for r in stochastic_relus(network).values()} == {
        r.settings for r in stochastic_relus(converted).values()
    }
    for key, value in plain.state_dict().items():
        assert torch.equal(network.state_dict()[key], value)
    again = pickle.loads(pickle.dumps(network))
    set_draw(again, 3), set_draw(network, 3)
    assert torch.equal(again(IMAGES), network(IMAGES))
    assert all(
        torch.equal(a, b) for a, b in zip(report.undo(plain).parameters(), model.parameters(), strict=True)
    )
    network.train()(IMAGES).sum().backward()


def test_report() -> None:
    model = theirs.SqueezeNet("1_1", num_classes=5).eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    _, report = equalize(model, [images], TruncatedSign(18), frac_bits=18)
    (site,) = report.unscaled()
    assert site == "classifier.2"
    assert "the network's output" in str(report)
    row = report.rows()[-1]
    assert (row["channels"], row["free"], row["lowest"], row["highest"]) == (5, 0, 0.0, 0.0)
    assert report.record()["sites"][0]["site"] == "features.1"
    assert report.rows()[0]["free"] == 64


def test_sign_tests_without_a_scale_change_nothing() -> None:
    model = build_model("resnet8", num_classes=10, image_size=32, seed=0).eval()
    for spec in (NoFault(), UniformFault(0.01)):
        _, report = equalize(model, [IMAGES], spec, frac_bits=16)
        assert set(report.scales) == {1.0}


def test_what_leaves_the_field_is_refused() -> None:
    model = Kept(nn.ReLU6()).eval()
    with pytest.raises(FixedPointOverflow, match="site relu.*ReLU6.*fewer fraction bits"):
        equalize(model, [IMAGES * 1e4], TruncatedSign(12), frac_bits=24)
    with pytest.raises(ValueError, match="spec= and frac_bits="):
        equalize(model, [IMAGES], frac_bits=12)
    with pytest.raises(ValueError, match="batches is empty"):
        equalize(model, [], TruncatedSign(12), frac_bits=12)
    broken = IMAGES.clone()
    broken[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="site relu: 24 of"):
        equalize(Concatenated(), [IMAGES, broken], TruncatedSign(12), frac_bits=12)


def test_weights_at_the_edge_of_their_format_keep_their_scale() -> None:
    """Dead channels of trained networks have weights of 1e-40: dividing them would lose digits."""
    torch.manual_seed(0)
    model = Concatenated()
    with torch.no_grad():
        model.a.weight[0] *= 0.01
        model.depthwise.weight[0] = 1.5e-38 * (1 + torch.rand(3, 3))
    network, report = equalize(model, [IMAGES], TruncatedSign(16), frac_bits=16)
    assert "depthwise.weight" in report.unscaled()["relu"][0]
    assert torch.equal(network(IMAGES), model(IMAGES))


def test_a_forward_set_on_an_object_is_refused() -> None:
    model = Concatenated()
    model.a.forward = model.a.forward  # type: ignore[method-assign]
    groups = channel_groups(model, (3, 8, 8))
    with pytest.raises(ConversionError, match="forward of its own"):
        apply_scales(model, groups, [1.0] * groups.count)
