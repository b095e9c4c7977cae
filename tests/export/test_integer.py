"""The integer network: Python's integers, the float simulator, other batches, other devices."""

from __future__ import annotations

import pytest
import torch
from reference import execute
from torch import nn

from circa_train import NoFault, StochasticReLU, TruncatedSign, UniformFault
from circa_train.evaluation import evaluate
from circa_train.export import IntegerNetwork, fold_batch_norms, holdings, to_integers
from circa_train.export.graph import layer_graph
from circa_train.export.quantize import Format, quantize
from circa_train.fixed_point import FixedPointOverflow
from circa_train.nn.control import set_draw, set_faults, set_specs, stochastic_relus
from circa_train.nn.convert import with_stochastic_relus
from circa_train.nn.models.resnet import PadShortcut
from circa_train.rescaling import offset_rescale

PRIMES = [251, 65537, 2138816513]


class Small(nn.Module):
    """Stride, groups, dilation, both kinds of shortcut sums, two poolings; 2 x 6 x 6 images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=2)
        self.conv3 = nn.Conv2d(4, 6, (3, 1), stride=2, padding=(1, 0), bias=False)
        self.shortcut = PadShortcut(4, 6, 2)
        self.pool = nn.AvgPool2d(3, 1, padding=1)
        self.out = nn.AdaptiveAvgPool2d(1)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(6, 3)

    def forward(self, x):
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.conv2(x) + x)
        x = self.relu(self.conv3(self.conv2(self.pool(x))) + self.shortcut(x))
        return self.fc(torch.flatten(self.out(x), 1))


def small_network(prime, k=3, **options):
    torch.manual_seed(0)
    graph = layer_graph(fold_batch_norms(Small().eval())[0], (2, 6, 6))
    fixed = Format(4, 3, prime) if prime == 251 else Format(5, 6, prime)
    return IntegerNetwork(
        quantize(graph, fixed), TruncatedSign(k=k, prime=prime), seed=5, overflow="wrap", **options
    )


@pytest.mark.parametrize("rescaling", ["offset", "floor", "local"])
@pytest.mark.parametrize("prime", PRIMES)
def test_every_layer_equals_python_integers(prime, rescaling):
    network = small_network(prime, rescaling=rescaling)
    x = network.quantize(torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(1)))
    rescale_masks = network.rescale_masks(len(x))
    tests = {test.site: test for test in network.sign_tests(x)}
    set_draw(network, 0)
    steps = {step.layer.name: step.value for step in network.steps(x)}
    for image in range(len(x)):
        masks = {site: test.mask[image].flatten().tolist() for site, test in tests.items()}
        truncations = {name: mask[image].flatten().tolist() for name, mask in rescale_masks.items()}
        wanted = execute(network.plan, x[image].tolist(), masks, truncations, 3, rescaling)
        for name, value in steps.items():
            assert value[image].flatten().tolist() == wanted[name].values, name
    assert (sum(network.overflows.values()) > 0) == (prime == 251)


def test_sign_tests_carry_what_a_circuit_needs():
    network = small_network(PRIMES[2])
    x = network.quantize(torch.randn(4, 2, 6, 6))
    tests = list(network.sign_tests(x))
    assert [test.index for test in tests] == [0, 1, 2]
    assert [test.site for test in tests] == ["relu", "relu#2", "relu#3"]
    for test in tests:
        p, k = network.prime, test.spec.k
        assert torch.equal(test.gate, ((test.x + test.mask) % p >> k) > (test.mask >> k))
        assert torch.equal(test.y, torch.where(test.gate, test.x, 0))
        assert int(test.mask.min()) >= 0
        assert int(test.mask.max()) < p


def test_the_simulator_draws_the_same_gates_from_the_same_values(conversion, images):
    network = conversion.network
    set_draw(network, 7, first_image=4)
    for test in network.sign_tests(network.quantize(images[4:12])):
        relu = StochasticReLU(
            test.spec, frac_bits=network.plan.scales[test.site].frac_bits, seed=3, site=test.index
        )
        relu.set_draw(7, first_image=4)
        z = test.x.double() / 2**relu.frac_bits
        assert torch.equal(relu(z) != 0, test.gate & (test.x != 0)), test.site


def test_parts_of_a_batch_draw_the_masks_of_the_whole(conversion, images):
    for rescaling in ("offset", "floor", "local"):
        network = IntegerNetwork(
            conversion.network.plan, TruncatedSign(k=8), seed=3, rescaling=rescaling, overflow="wrap"
        )
        set_draw(network, 11)
        whole = network(images)
        parts = []
        for start, stop in ((0, 5), (5, len(images))):
            set_draw(network, 11, first_image=start)
            parts.append(network(images[start:stop]))
        assert torch.equal(whole, torch.cat(parts))
        set_draw(network, 12)
        assert not torch.equal(whole, network(images))


def test_offset_truncates_under_the_sign_test_s_own_mask_and_errs_by_less_than_a_unit(conversion, images):
    """Straight behind a ReLU: s times what both shares of x become under t. Elsewhere a mask of its own."""
    network = IntegerNetwork(conversion.network.plan, TruncatedSign(k=8), seed=3, rescaling="offset")
    x = network.quantize(images)
    tests = {test.site: test for test in network.sign_tests(x)}
    set_draw(network, 0)
    own = network.rescale_masks(len(x))
    fused = 0
    for step in network.steps(x):
        if step.layer.kind != "rescale":
            continue
        (source,), bits = step.inputs, step.layer.bits
        assert bool(((step.value - source.double() / 2**bits).abs() < 1).all())
        test = tests.get(step.layer.inputs[0])
        if test is None:
            assert torch.equal(step.mask, own[step.layer.name])
            continue
        fused += 1
        assert torch.equal(step.mask, test.mask)
        both = offset_rescale(test.x, test.mask, bits, network.prime)
        assert torch.equal(step.value, both * test.gate)
    assert fused == 7
    assert not network.overflows


def test_offset_follows_values_that_only_move(images):
    """Flattened, cut, padded, joined: the mask goes with the value; what no ReLU made has one of its own."""
    torch.manual_seed(0)
    network = to_integers(Moving().eval(), TruncatedSign(k=3), [images], seed=2).network
    x = network.quantize(images)
    masks = {test.site: test.mask for test in network.sign_tests(x)}
    set_draw(network, 0)
    own = network.rescale_masks(len(x))
    steps = {step.layer.name: step for step in network.steps(x)}
    joined = next(s for s in steps.values() if s.layer.kind == "rescale" and s.layer.shape == (11, 8, 8))
    relu, mine = masks["relu"], own[joined.layer.name]
    padded = torch.nn.functional.pad(relu[:, ::2], (0, 0, 0, 0, 1, 1))
    # zeros that were padded have no mask to speak of, and stay zero under any
    assert torch.equal(joined.mask, torch.cat([relu, padded, mine[:, 8:]], 1))
    held = {holding.layer: holding for holding in holdings(network.plan)}[joined.layer.name]
    assert held.masks_of == ("relu",)
    assert held.trips == (0,)
    flat = next(s for s in steps.values() if s.layer.kind == "rescale" and len(s.layer.shape) == 1)
    assert torch.equal(flat.mask, masks["relu#2"].flatten(1))


class Moving(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.mixed = nn.Conv2d(11, 2, 3, padding=1)
        self.fc = nn.Linear(128, 3)

    def forward(self, x):
        z = self.conv(x)
        y = torch.relu(z)
        shortcut = nn.functional.pad(y[:, ::2], (0, 0, 0, 0, 1, 1))
        y = torch.cat([y, shortcut, z[:, 1:]], 1)
        return self.fc(torch.flatten(torch.relu(self.mixed(y)), 1))


def test_without_faults_it_is_the_real_network_up_to_rounding(conversion, trained, images):
    network = IntegerNetwork(conversion.network.plan, NoFault())
    with torch.no_grad():
        wanted = trained(images)
    error = (network(images) - wanted).abs().max() / wanted.abs().max()
    assert 0 < error < 0.05
    finer = to_integers(trained, NoFault(), [images], headroom_bits=0, value_bits=20).network
    assert (finer(images) - wanted).abs().max() < (network(images) - wanted).abs().max()


def test_top_1_agrees_with_the_simulator_within_both_intervals(conversion, trained, splits):
    network = conversion.network
    frac_bits = network.plan.format.accumulator_frac_bits
    simulator = with_stochastic_relus(trained, TruncatedSign(k=8), frac_bits=frac_bits, seed=3)
    results = [
        evaluate(model, splits.test, mean=splits.mean, std=splits.std, draws=8)
        for model in (network, simulator)
    ]
    spread = results[0].width / 2 + results[1].width / 2
    # Rounding may move a border image either way on every draw alike, which no interval over draws sees: one
    # of the 75.
    assert abs(results[0].mean - results[1].mean) <= spread + 1 / len(splits.test)


def test_switches_of_converted_networks_work_here(conversion, images):
    network = IntegerNetwork(conversion.network.plan, TruncatedSign(k=20), seed=3)
    assert list(stochastic_relus(network)) == [layer.name for layer in network.plan.sites]
    faulty = network(images)
    set_faults(network, False)
    exact = IntegerNetwork(conversion.network.plan, NoFault())(images)
    assert torch.equal(network(images), exact)
    assert not torch.equal(faulty, exact)
    set_faults(network, True)
    set_specs(network, UniformFault(rate=0.0))
    assert torch.equal(network(images), exact)
    with pytest.raises(ValueError, match="p = 251"):
        set_specs(network, TruncatedSign(k=2, prime=251))


def test_overflow_names_the_layer_and_counts():
    network = small_network(251)
    strict = IntegerNetwork(network.plan, TruncatedSign(k=3, prime=251))
    x = network.quantize(torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(1)))
    with pytest.raises(
        FixedPointOverflow, match=r"layer \S+: \d+ of \d+ values overflow the field, up to \d+ where .* = 125"
    ):
        strict.run(x)
    counted = {step.layer.name: step.overflows for step in network.steps(x) if step.overflows}
    assert dict(network.overflows) == counted
    ideal = {step.layer.name: step for step in network.steps(x, in_field=False)}
    assert all((step.overflows > 0) == (max(-step.low, step.high) > 125) for step in ideal.values())


def test_refusals():
    network = small_network(65537)
    with pytest.raises(TypeError, match=r"torch\.float32"):
        network.run(torch.zeros(1, 2, 6, 6))
    with pytest.raises(ValueError, match=r"expected \(N, 2, 6, 6\)"):
        network.run(torch.zeros(1, 2, 6, 5, dtype=torch.int64))
    with pytest.raises(ValueError, match="saturate"):
        IntegerNetwork(network.plan, NoFault(), overflow="saturate")
    with pytest.raises(ValueError, match=r"site relu: .* p = 251"):
        IntegerNetwork(network.plan, TruncatedSign(k=1, prime=251))
    with pytest.raises(ValueError, match="'round'"):
        IntegerNetwork(network.plan, NoFault(), rescaling="round")


@pytest.mark.gpu
@pytest.mark.parametrize("rescaling", ["offset", "local"])
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_gives_the_same_integers(conversion, images, rescaling):
    on_cpu = IntegerNetwork(
        conversion.network.plan, TruncatedSign(k=8), seed=3, rescaling=rescaling, overflow="wrap"
    )
    on_gpu = IntegerNetwork(
        conversion.network.plan, TruncatedSign(k=8), seed=3, rescaling=rescaling, overflow="wrap"
    ).cuda()
    x = on_cpu.quantize(images)
    for here, there in zip(on_cpu.steps(x), on_gpu.steps(x.cuda()), strict=True):
        assert torch.equal(here.value, there.value.cpu()), here.layer.name
