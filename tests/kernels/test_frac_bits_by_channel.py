"""Fraction bits that differ by channel: each channel does what a site with its own number does, on every
backend and bit for bit.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from circa_train import StochasticReLU, TruncatedSign, expected_faults, fault_count
from circa_train.fault import BitWindow, SignTest, UniformFault
from circa_train.fixed_point import FixedPointOverflow, from_fixed, to_fixed
from circa_train.kernels import reference
from circa_train.kernels.cpu import launch as cpu
from circa_train.kernels.ops import settings_from_text, settings_to_text
from circa_train.kernels.settings import SiteSettings
from circa_train.nn import observe

SPECS: tuple[SignTest, ...] = (
    TruncatedSign(20),
    TruncatedSign(21, "negpass"),
    TruncatedSign((3, 19, 20, 25, 0, 12, 21)),
    UniformFault(0.2),
    BitWindow(8, 30),
)
FRAC_BITS = (20, 4, 22, 0, 25, 17, 20)


def bits(y: Tensor) -> Tensor:
    return y.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[y.element_size()])


def activation(*shape: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    z = torch.randn(shape, generator=generator) * torch.exp2(-9 * torch.rand(shape, generator=generator))
    return torch.where(torch.rand(shape, generator=generator) < 0.05, 0.0, z * scale).to(dtype)


def settings_of(spec: SignTest, frac_bits: int | tuple[int, ...], overflow: str = "raise") -> SiteSettings:
    return SiteSettings(spec, frac_bits, 2**63 + 9, 77, overflow)


def assert_same(z: Tensor, settings: SiteSettings, first_image: int = 0) -> None:
    address = torch.tensor([6, first_image])
    for statistics in (False, True):
        y, counts = cpu.forward(z, settings, address, statistics)
        expected, expected_counts = reference.forward(z, settings, address, statistics)
        assert torch.equal(bits(y), bits(expected)), (z.shape, settings)
        assert torch.equal(counts, F.pad(expected_counts, (0, 1))), (z.shape, settings)


@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_the_definition_is_that_of_each_channel_alone(spec: SignTest) -> None:
    z, address = activation(3, 7, 5, 4), torch.tensor([6, 2])
    y, counts = reference.forward(z, settings_of(spec, FRAC_BITS, "wrap"), address, True)
    for channel, frac_bits in enumerate(FRAC_BITS):
        alone, _ = reference.forward(z, settings_of(spec, frac_bits, "wrap"), address, True)
        assert torch.equal(bits(y[:, channel]), bits(alone[:, channel]))
    assert int(counts[1:].sum()) > 0


def test_the_law_by_enumeration_of_all_masks() -> None:
    """Of 251 masks as many fault as the law says, where x is that of each channel's own scale."""
    prime, frac_bits, z = 251, (0, 2, 4), torch.arange(-7, 8).double().reshape(-1, 1).expand(-1, 3) / 2
    x, overflows = to_fixed(z, frac_bits, prime)
    assert overflows == 0
    assert torch.equal(from_fixed(x[:, 1:], frac_bits[1:], torch.float64), z[:, 1:])
    masks = torch.arange(prime)
    for mode in ("poszero", "negpass"):
        spec, total = TruncatedSign(3, mode, prime), 0
        for channel, bits_of in enumerate(frac_bits):
            for value in z[:, channel].tolist():
                own = round(value * 2**bits_of)
                gates = spec.gate(torch.tensor(own), masks)
                faults = int((gates != (own > 0)).sum()) if own else 0
                assert faults == fault_count(own, spec)
                total += faults
        assert expected_faults(x, spec).faults * prime == pytest.approx(total, abs=1e-9)


@pytest.mark.parametrize("spec", SPECS, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_the_compiled_kernel_gives_the_same_bits(spec: SignTest, dtype: torch.dtype) -> None:
    for shape in ((5, 7), (3, 7, 5), (2, 7, 16, 16), (4, 7, 9, 11)):
        for first_image in (0, 3):
            assert_same(activation(*shape, dtype=dtype), settings_of(spec, FRAC_BITS, "wrap"), first_image)


@pytest.mark.parametrize("policy", ["wrap", "saturate"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_beyond_the_field_of_some_channels(policy: str, dtype: torch.dtype) -> None:
    """Also where the product with the scale leaves float32."""
    for scale in (300.0, 1e12, 1e38):
        for spec in SPECS[:2]:
            z = activation(3, 7, 8, 8, dtype=dtype, scale=scale)
            assert_same(z, settings_of(spec, FRAC_BITS, policy))


@pytest.mark.parametrize("channels", [1, 5, 16, 32])
def test_channels_last_tensors_in_tiles_and_in_strides(channels: int) -> None:
    frac_bits = tuple(12 + channel % 11 for channel in range(channels))
    for spec in (TruncatedSign(20), TruncatedSign(21, "negpass"), TruncatedSign((20,) * channels)):
        for plane in ((16, 16), (5, 7)):
            z = activation(3, channels, *plane).contiguous(memory_format=torch.channels_last)
            assert_same(z, settings_of(spec, frac_bits))


def test_the_modules_ways_agree() -> None:
    """The short way, the operator, autograd, torch.func and the counts of an observation."""
    z, spec = activation(3, 7, 8, 8), TruncatedSign(20)

    def site(backend: str) -> StochasticReLU:
        return StochasticReLU(spec, frac_bits=FRAC_BITS, seed=1, site=2, backend=backend)

    expected = site("reference")(z)
    assert torch.equal(site("cpu")(z), expected)
    assert torch.equal(site("auto")(z), expected)
    assert torch.equal(torch.func.vmap(site("auto"), randomness="different")(z), expected)
    torch._dynamo.reset()
    assert torch.equal(torch.compile(site("auto"), backend="eager", fullgraph=True)(z), expected)
    leaf = z.clone().requires_grad_()
    site("auto")(leaf).sum().backward()
    assert torch.equal(leaf.grad, ((expected != 0) | torch.signbit(expected)).float())
    for backend in ("reference", "cpu"):
        relu = site(backend)
        with observe(relu) as seen:
            relu(z)
        faults = int((((z > 0) & (expected == 0)) | (expected < 0)).sum())
        assert seen[""].faults.faults <= faults  # those whose x is 0 are none
        assert seen[""].faults.faults > 0


def test_settings_travel_as_text() -> None:
    settings = settings_of(SPECS[0], FRAC_BITS)
    assert settings_from_text(settings_to_text(settings)) == settings
    assert SiteSettings(SPECS[0], [20, 3], 0, 0, "raise").frac_bits == (20, 3)


def test_refusals_name_the_channel_and_the_shape() -> None:
    for backend in ("reference", "cpu"):
        relu = StochasticReLU(TruncatedSign(12), frac_bits=(20, 21), backend=backend, name="here")
        with pytest.raises(ValueError, match=r"site here: .*2 channels.*shape \(4, 3, 2, 2\)"):
            relu(torch.zeros(4, 3, 2, 2))
        with pytest.raises(ValueError, match="2 channels"):
            relu(torch.zeros(2))
        with pytest.raises(FixedPointOverflow, match=r"site here: channel 1: 1 of 2 .*frac_bits = 21.*is 20"):
            relu(torch.tensor([[1.0, 600.0], [500.0, 0.0]]))
        relu(torch.tensor([[1000.0, 500.0]]))  # each within its own range
    with pytest.raises(ValueError, match="no channel"):
        StochasticReLU(TruncatedSign(12), frac_bits=())
    with pytest.raises(ValueError, match=r"63 is outside"):
        StochasticReLU(TruncatedSign(12), frac_bits=[1, 63])
    with pytest.raises(TypeError, match="one per channel"):
        StochasticReLU(TruncatedSign(12), frac_bits="20")  # type: ignore[arg-type]
