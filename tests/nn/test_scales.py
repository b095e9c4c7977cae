"""Fraction bits of each channel by the exact law, held against enumeration and against what is measured."""

from __future__ import annotations

import pytest
import torch
from networks import Everything
from torch import nn

from circa_train import NoFault, TruncatedSign, UniformFault, build_model, fit_scales, with_stochastic_relus
from circa_train.field import largest_centred
from circa_train.nn import scales
from circa_train.nn.control import described_frac_bits, set_frac_bits, stochastic_relus
from circa_train.nn.damage import squared_damage
from circa_train.nn.models.kept_relus import random_masks
from circa_train.nn.models.reduction import MaskedReLU, reduce_relus
from circa_train.nn.scales import SYSTEMATIC, best_frac_bits, scale_errors
from circa_train.nn.site_values import SiteValues, site_values

GENERATOR = torch.Generator().manual_seed(3)
IMAGES = torch.randn(6, 3, 8, 8, generator=GENERATOR)


def slow_error(values: list[float], frac_bits: int, spec: TruncatedSign) -> float:
    """D by trying every mask at every value."""
    masks, total = torch.arange(spec.prime), 0.0
    for z in values:
        gates = spec.gate(torch.tensor(round(z * 2**frac_bits)), masks)
        wrong = float((gates != (z > 0)).double().mean())
        total += z**2 * (wrong + SYSTEMATIC * wrong**2)
    return total / len(values)


@pytest.mark.parametrize("mode", ["poszero", "negpass"])
def test_the_error_is_the_mean_over_all_masks_and_the_best_is_the_least(mode: str) -> None:
    spec = TruncatedSign((3, 5, 2), mode, 251)
    rows = [[0.3, -0.8, 0.0, 2.5], [0.01, 0.02, -0.03, -0.001], [1.0, -7.0, 3.3, -0.2]]
    values = torch.tensor(rows, dtype=torch.float64)
    seen = SiteValues(values, values.abs().amax(1))
    errors, largest = scale_errors(seen, spec, headroom_bits=1), seen.largest(251, 1)
    assert largest == [4, 11, 3]
    for channel, k in enumerate((3, 5, 2)):
        row = values[channel].tolist()
        assert torch.isinf(errors[channel, largest[channel] + 1 :]).all()
        for frac_bits in range(largest[channel] + 1):
            slow = slow_error(row, frac_bits, TruncatedSign(k, mode, 251))
            assert float(errors[channel, frac_bits]) == pytest.approx(slow, rel=1e-12, abs=1e-15)
        best = best_frac_bits(seen, errors)[channel]
        assert errors[channel, best] == errors[channel].min()


def test_a_value_that_rounds_to_zero_is_decided_by_the_tie() -> None:
    """At 0 fraction bits 0.3 is x = 0: PosZero loses it, NegPass passes -0.3. The law sees no fault."""
    values = torch.tensor([[0.3], [-0.3]], dtype=torch.float64)
    for mode, want in (("poszero", [0.09, 0.0]), ("negpass", [0.0, 0.09])):
        errors = scale_errors(SiteValues(values, values.abs().amax(1)), TruncatedSign(12, mode), 30)
        assert errors[:, 0].tolist() == pytest.approx([(1 + SYSTEMATIC) * each for each in want])


def test_calibration_sees_every_value_and_keeps_the_headroom() -> None:
    model, spec = Everything().eval(), TruncatedSign(20)
    seen = site_values(model, [IMAGES[:4], (IMAGES[4:], torch.zeros(2))])
    frac_bits = fit_scales(model, [IMAGES[:4], (IMAGES[4:], torch.zeros(2))], spec)
    assert list(frac_bits) == list(seen)
    for name, values in seen.items():
        bits = frac_bits[name]
        assert isinstance(bits, tuple)
        assert len(bits) == len(values.reach)
        assert torch.equal(values.values.abs().amax(1), values.reach), "the extremes are among them"
        for reach, number in zip(values.reach.tolist(), bits, strict=True):
            assert reach * 2.0**number * 4 <= largest_centred(spec.prime)
    network = with_stochastic_relus(model, spec, frac_bits=frac_bits)
    network(IMAGES * 2)  # no overflow
    assert described_frac_bits(network) == frac_bits
    set_frac_bits(network, 14)
    assert described_frac_bits(network) == 14


def test_less_is_lost_than_with_any_single_number() -> None:
    """Channels of very different reach: the squared error that is measured is the law's, and the least."""
    torch.manual_seed(1)
    z = torch.randn(400, 5, 4, 4) * torch.tensor([8.0, 1.0, 0.1, 0.02, 3.0]).reshape(-1, 1, 1)
    model, spec = nn.Sequential(nn.Identity(), nn.ReLU()), TruncatedSign(20)
    chosen = fit_scales(model, [z], spec)

    def measured(frac_bits: object) -> float:
        network = with_stochastic_relus(model, spec, frac_bits=frac_bits, overflow="wrap", seed=5)
        errors = [(network(z) - z.relu()) ** 2 for _ in range(4)]
        return float(torch.stack(errors).double().mean())

    own = measured(chosen)
    law = float(squared_damage(z, spec, chosen["1"]).mean())
    assert own == pytest.approx(law, rel=0.25)  # 5 sigma: 2000 faults or more, of unequal size
    assert all(own < measured(single) for single in range(14, 26))


def test_refusals() -> None:
    model = Everything().eval()
    names = list(stochastic_relus(with_stochastic_relus(model, NoFault())))
    with pytest.raises(ValueError, match=r"site .*'uniform'.*fit_frac_bits"):
        fit_scales(model, [IMAGES], UniformFault(0.1))
    with pytest.raises(ValueError, match="batches is empty"):
        fit_scales(model, [], TruncatedSign(3))
    with pytest.raises(ValueError, match="headroom_bits = 31"):
        fit_scales(model, [IMAGES], TruncatedSign(3), headroom_bits=31)
    with pytest.raises(ValueError, match=r"numbers for 2 channels"):
        fit_scales(model, [IMAGES], TruncatedSign((3, 4)))
    with pytest.raises(ValueError, match="NaN"):
        fit_scales(model, [IMAGES * float("nan")], TruncatedSign(3))
    mixed = {name: NoFault() if i else TruncatedSign(9) for i, name in enumerate(names)}
    found = fit_scales(model, [IMAGES], mixed)
    assert isinstance(found[names[0]], tuple)
    assert isinstance(found[names[1]], int)
    with pytest.raises(ValueError, match=r"frac_bits by site: .* missing"):
        with_stochastic_relus(model, mixed, frac_bits={names[0]: 12})
    with pytest.raises(ValueError, match=rf"site {names[1]}: frac_bits = 99"):
        with_stochastic_relus(model, mixed, frac_bits={**found, names[1]: 99})


def test_many_channels_are_computed_in_pieces_and_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.randn(7, 40, dtype=torch.float64, generator=GENERATOR) * 2.0 ** torch.arange(7)[:, None]
    seen = SiteValues(values, values.abs().amax(1))
    for spec in (TruncatedSign(20), TruncatedSign((14, 15, 16, 17, 18, 19, 20))):
        whole = scale_errors(seen, spec)
        with monkeypatch.context() as patch:
            patch.setattr(scales, "_AT_ONCE", 3 * 19 * 40)
            assert torch.equal(scale_errors(seen, spec), whole)


def reduced() -> nn.Module:
    """A third of the elements of every map keeps its ReLU, other ones in every channel; one channel none."""
    model = build_model("resnet8", num_classes=3, image_size=8, width=0.25, seed=0)
    masks = random_masks(model, (3, 8, 8), 0.3, seed=1)
    masks["layer1.0.relu1"][2] = False
    return reduce_relus(model, {"masks": masks}, (3, 8, 8)).eval()


def test_elements_of_one_channel_are_resolved_alike() -> None:
    model, spec = reduced(), TruncatedSign(20, "negpass")
    masks = {name: each for name, each in model.named_modules() if isinstance(each, MaskedReLU)}
    batches = [IMAGES[:4], IMAGES[4:]]
    found, seen = fit_scales(model, batches, spec), site_values(model, batches)
    assert set(found) == {f"{name}.relu" for name in masks}
    for name, masked in masks.items():
        of, bits = masked.channel_of_kept, torch.tensor(found[f"{name}.relu"])
        assert len(bits) == len(masked.kept)
        channels = of.unique()
        assert all(bits[of == channel].unique().numel() == 1 for channel in channels)
        values = seen[f"{name}.relu"]
        assert values.values.shape == (len(channels), 2 * 256 + 2)
        assert values.mean(torch.arange(len(channels)).double()) == pytest.approx(
            sum(i * int((of == channel).sum()) for i, channel in enumerate(channels)) / len(of)
        )
    # the largest and the least of every channel, and nothing that was not seen
    recorded: list[torch.Tensor] = []
    first, site = next(iter(masks.items()))
    handle = site.relu.register_forward_pre_hook(lambda _, given: recorded.append(given[0].detach()))
    with torch.no_grad():
        model(IMAGES)
    handle.remove()
    every, of = recorded[0].double(), site.channel_of_kept
    for row, channel in enumerate(of.unique()):
        own, kept = every[:, of == channel], seen[f"{first}.relu"].values[row]
        assert float(seen[f"{first}.relu"].reach[row]) == pytest.approx(float(own.abs().max()), rel=1e-5)
        assert {round(v, 3) for v in kept.tolist()} <= {round(v, 3) for v in own.flatten().tolist()}
        assert kept.unique().numel() > 0.5 * min(own.numel(), 256), "the sample goes through all of them"
    network = with_stochastic_relus(model, spec, frac_bits=found)
    assert network(IMAGES).shape == (6, 3)


def test_different_numbers_within_a_channel_are_refused() -> None:
    seen = site_values(reduced(), [IMAGES])["layer1.0.relu1.relu"]
    assert seen.channel_of is not None
    ks = [20] * len(seen.channel_of)
    assert torch.equal(scale_errors(seen, TruncatedSign(tuple(ks))), scale_errors(seen, TruncatedSign(20)))
    with pytest.raises(ValueError, match="elements of one channel have different numbers"):
        scale_errors(seen, TruncatedSign((19, *ks[1:])))
