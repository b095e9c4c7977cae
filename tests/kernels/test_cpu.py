"""The compiled kernel against the tensor formulas, bit for bit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from circa_train.fault import BitWindow, SignTest, TruncatedSign, UniformFault
from circa_train.field import bit_length, largest_centred
from circa_train.kernels import reference
from circa_train.kernels.cpu import launch as cpu
from circa_train.kernels.cpu import team
from circa_train.kernels.settings import SiteSettings

PRIMES = (3, 5, 251, 65537, 2**30 + 3, 2138816513, 2147483647)
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
SPECS: tuple[SignTest, ...] = (
    TruncatedSign(k=12),
    TruncatedSign(k=30, mode="negpass"),
    UniformFault(0.3),
    UniformFault(1.0, "zeroed"),
    UniformFault(0.01, "passed"),
    BitWindow(4, 18),
    BitWindow(0, 63),
)


def bits(y: Tensor) -> Tensor:
    return y.contiguous().view(BITS[y.element_size()])


def activation(*shape: int, dtype: torch.dtype = torch.float32, scale: float = 1.0, seed: int = 0) -> Tensor:
    """Values of every magnitude down to one unit of the fixed-point format, and zeros of both signs."""
    generator = torch.Generator().manual_seed(seed)
    z = (
        torch.randn(shape, generator=generator)
        * torch.exp2(-12 * torch.rand(shape, generator=generator))
        * scale
    )
    z = torch.where(torch.rand(shape, generator=generator) < 0.05, torch.zeros(shape), z)
    return torch.where(torch.rand(shape, generator=generator) < 0.02, -torch.zeros(shape), z).to(dtype)


def assert_same(z: Tensor, settings: SiteSettings, draw: int = 3, first_image: int = 0) -> None:
    address = torch.tensor([draw, first_image])
    for statistics in (False, True):
        y, counts = cpu.forward(z, settings, address, statistics)
        expected, expected_counts = reference.forward(z, settings, address, statistics)
        assert (y.dtype, y.shape, y.stride()) == (z.dtype, z.shape, torch.empty_like(z).stride())
        assert torch.equal(bits(y), bits(expected)), (z.shape, settings)
        assert torch.equal(counts, F.pad(expected_counts, (0, 1))), (z.shape, settings)
    grad = torch.randn(z.shape).to(z.dtype)
    assert torch.equal(bits(cpu.backward(grad, y)), bits(reference.backward(grad, expected)))


def settings_of(
    spec: SignTest, frac_bits: int = 16, overflow: str = "raise", seed: int = 2**64 - 5, site: int = 65535
) -> SiteSettings:
    return SiteSettings(spec, frac_bits, seed, site, overflow)


SHAPES = [
    (),
    (1,),
    (0,),
    (0, 3, 2, 2),
    (2, 0),
    (7,),
    (5, 51),
    (256,),
    (257,),
    (3, 5, 7),
    (2, 3, 4, 5, 6),
    (1, 70000),
    (9, 16, 16, 16),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_equals_reference_for_every_shape_and_sign_test(shape: tuple[int, ...], spec: SignTest) -> None:
    assert_same(activation(*shape), settings_of(spec))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("first_image", [0, 1, 12345])
def test_equals_reference_for_every_dtype_and_place_in_the_batch(
    dtype: torch.dtype, first_image: int
) -> None:
    for spec in SPECS:
        assert_same(
            activation(5, 7, 11, 13, dtype=dtype), settings_of(spec), draw=2**62 + 1, first_image=first_image
        )


@pytest.mark.parametrize("prime", PRIMES)
@pytest.mark.parametrize("mode", ["poszero", "negpass"])
def test_equals_reference_for_every_prime_k_mode_and_overflow_policy(prime: int, mode: str) -> None:
    scale = largest_centred(prime) / 2**4
    for k in sorted({0, 1, bit_length(prime) // 2, bit_length(prime) - 1}):
        spec = TruncatedSign(k, mode, prime)
        inside = activation(3, 700, scale=scale).clamp(-scale * 0.99, scale * 0.99)
        assert_same(inside, settings_of(spec, frac_bits=4))
        for policy in ("wrap", "saturate"):
            for dtype in (torch.float32, torch.float64):
                assert_same(
                    activation(3, 700, scale=20 * scale, dtype=dtype),
                    settings_of(spec, frac_bits=4, overflow=policy),
                )


@pytest.mark.parametrize("prime", PRIMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_range_is_exact_to_the_last_unit(prime: int, dtype: torch.dtype) -> None:
    limit = torch.tensor(float(largest_centred(prime)), dtype=torch.float64)
    near = torch.stack([limit + d / 4 for d in range(-8, 9)]).to(dtype)
    near = torch.cat([near, torch.nextafter(near, torch.zeros_like(near)), torch.nextafter(near, near * 2)])
    for policy in ("wrap", "saturate"):
        assert_same(
            torch.cat([near, -near]), settings_of(TruncatedSign(0, prime=prime), frac_bits=0, overflow=policy)
        )


def test_halves_round_to_even() -> None:
    z = torch.arange(-9, 10).float() / 2
    assert_same(z, settings_of(TruncatedSign(0, prime=251), frac_bits=0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_16_bit_number_is_read_right(dtype: torch.dtype) -> None:
    z = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    z = z[torch.isfinite(z)]
    for frac_bits in (0, 24):
        assert_same(z, settings_of(TruncatedSign(3), frac_bits=frac_bits, overflow="saturate"))


LAYOUTS = {
    "channels_last": lambda: activation(4, 16, 9, 7).to(memory_format=torch.channels_last),
    "channels_last, odd channels": lambda: activation(4, 5, 16, 16).to(memory_format=torch.channels_last),
    "channels_last, one image": lambda: activation(1, 64, 16, 16).to(memory_format=torch.channels_last),
    "channels_last, whole runs": lambda: activation(3, 32, 16, 32).to(memory_format=torch.channels_last),
    "channels_last 3d, whole runs": lambda: activation(2, 16, 4, 8, 8).to(
        memory_format=torch.channels_last_3d
    ),
    "channels_last 3d": lambda: activation(2, 6, 3, 4, 5).to(memory_format=torch.channels_last_3d),
    "channels_last 1d": lambda: activation(2, 40, 30).transpose(1, 2).contiguous().transpose(1, 2),
    "transposed": lambda: activation(40, 30).t(),
    "slices": lambda: activation(8, 9, 10, 11)[::2, 1:, ::3, 2:],
    "expanded": lambda: activation(1, 30).expand(20, 30),
    "offset": lambda: activation(1000)[3:900],
    "one channel": lambda: activation(4, 1, 8, 8).to(memory_format=torch.channels_last),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_elements_are_numbered_in_row_major_order_whatever_the_layout(layout: str) -> None:
    z = LAYOUTS[layout]()
    for spec in SPECS:
        for first_image in (5, 2**20 - 1):  # blocks of the second cross 2^32 where an image has 2^14 elements
            assert_same(z, settings_of(spec), first_image=first_image)
    grad = torch.randn_like(z.contiguous())
    y = cpu.forward(z, settings_of(SPECS[0]), torch.tensor([0, 0]), False)[0]
    assert torch.equal(bits(cpu.backward(grad, y)), bits(reference.backward(grad, y)))
    assert cpu.backward(grad, y).stride() == y.stride()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "shape", [(3, 7, 5, 5), (2, 16, 32, 8), (2, 48, 16, 16), (5, 3, 1, 1), (4, 32, 2, 2)], ids=str
)
def test_k_per_channel(shape: tuple[int, ...], memory_format: torch.memory_format) -> None:
    ks = tuple((5 * c) % 31 for c in range(shape[1]))
    for mode in ("poszero", "negpass"):
        z = activation(*shape).to(memory_format=memory_format)
        assert_same(z, settings_of(TruncatedSign(ks, mode)), first_image=3)


def test_k_per_channel_of_features_and_the_refusal_of_other_channels() -> None:
    assert_same(activation(9, 100), settings_of(TruncatedSign(tuple(range(25)) * 4)))
    settings = settings_of(TruncatedSign((1, 2, 3, 4)))
    for shape in ((9, 5), (4,), ()):
        with pytest.raises(ValueError, match="k for 4 channels"):
            cpu.forward(activation(*shape), settings, torch.tensor([0, 0]), False)


def test_the_number_of_threads_changes_nothing() -> None:
    z, settings, before = activation(40, 17, 33), settings_of(TruncatedSign(10)), torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            results.append(cpu.forward(z, settings, torch.tensor([1, 1]), True))
    finally:
        torch.set_num_threads(before)
    for y, counts in results[1:]:
        assert torch.equal(bits(y), bits(results[0][0]))
        assert torch.equal(counts, results[0][1])


def test_plain_threads_do_the_same_where_torch_has_no_openmp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(team, "_openmp_parallel", lambda: None)
    monkeypatch.setattr(team, "thread_number", lambda: 0)
    cpu._template.cache_clear()
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert_same(activation(40, 17, 33), settings_of(TruncatedSign(10)))
    finally:
        torch.set_num_threads(before)


def test_parts_of_a_batch_draw_what_the_whole_draws() -> None:
    z, settings = activation(8, 3, 5, 7), settings_of(TruncatedSign(14))
    whole = cpu.forward(z, settings, torch.tensor([4, 10]), False)[0]
    parts = [cpu.forward(z[i : i + 3], settings, torch.tensor([4, 10 + i]), False)[0] for i in range(0, 8, 3)]
    assert torch.equal(bits(torch.cat(parts)), bits(whole))


def test_overflows_and_non_finite_values_are_counted_apart() -> None:
    z = torch.zeros(1000)
    z[[3, 300, 999]] = torch.tensor([1e6, -1e6, 3e38])
    z[[4, 5]] = torch.tensor([float("nan"), float("inf")])
    _, counts = cpu.forward(z, settings_of(SPECS[0]), torch.tensor([0, 0]), False)
    assert (int(counts[0]), int(counts[7])) == (5, 2)


def test_an_address_beyond_the_counter_is_refused() -> None:
    with pytest.raises(ValueError, match=r"leave \[0, 2\^42\)"):
        cpu.forward(torch.ones(2, 8), settings_of(SPECS[0]), torch.tensor([0, 2**40]), False)
