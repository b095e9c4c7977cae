"""The Triton kernel against the tensor formulas: through Triton's interpreter anywhere, compiled on a GPU."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from circa_train.fault import BitWindow, SignTest, TruncatedSign, UniformFault
from circa_train.fixed_point import FixedPointOverflow
from circa_train.kernels import reference
from circa_train.kernels.settings import SiteSettings
from circa_train.nn.activation import StochasticReLU, raise_pending

pytest.importorskip("triton")
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

BITS = {2: torch.int16, 4: torch.int32}
SPECS: tuple[tuple[SignTest, int | tuple[int, ...]], ...] = (  # with fraction bits
    (TruncatedSign(12), 16),
    (TruncatedSign(28, "negpass"), 16),
    (TruncatedSign((1, 20, 30)), 16),
    (TruncatedSign(3, prime=251), 3),
    (TruncatedSign(30, "negpass", 2147483647), 20),
    (UniformFault(0.3), 16),
    (UniformFault(1.0, "passed"), 16),
    (BitWindow(4, 18), 16),
    (BitWindow(0, 63), 16),
    (TruncatedSign(18), (16, 3, 24)),
    (TruncatedSign((1, 20, 30), "negpass"), (0, 20, 16)),
)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def activation(*shape: int, dtype: torch.dtype, seed: int) -> Tensor:
    """Values of many magnitudes, zeros of both signs, and some beyond every field."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(shape, generator=generator) * torch.exp2(-12 * torch.rand(shape, generator=generator))
    z = z.flatten()
    z[:9] = torch.tensor([0.0, -0.0, 6e4, -6e4, 16318.0, -2e9, 1e30, -3e38, 15.625])[: z.numel()]
    return (z.clamp(-6e4, 6e4) if dtype == torch.float16 else z).reshape(shape).to(dtype)


def check(
    spec: SignTest, frac_bits: int | tuple[int, ...], dtype: torch.dtype, policy: str, device: str
) -> None:
    from circa_train.kernels import triton

    settings, address = SiteSettings(spec, frac_bits, 2**64 - 7, 9, policy), torch.tensor([2**40 + 3, 7])
    for statistics, shape in ((True, (2, 3, 7, 9)), (False, (1, 3, 4)), (True, (0, 3))):
        z = activation(*shape, dtype=dtype, seed=len(shape))
        for layout in (z, z.to(memory_format=torch.channels_last)) if z.dim() == 4 else (z,):
            y, counts = triton.forward(layout.to(device), settings, address.to(device), statistics)
            expected, expected_counts = reference.forward(layout, settings, address, statistics)
            y, bits = y.cpu(), BITS[y.element_size()]
            assert y.stride() == torch.empty_like(layout).stride()
            assert torch.equal(y.contiguous().view(bits), expected.contiguous().view(bits)), (
                spec,
                dtype,
                policy,
            )
            assert torch.equal(counts.cpu(), F.pad(expected_counts, (0, 1))), (spec, dtype, policy)
            grad = torch.randn(shape).to(dtype)
            got = triton.backward(grad.to(device), y.to(device)).cpu().contiguous()
            assert torch.equal(got.view(bits), reference.backward(grad, expected).contiguous().view(bits))


def check_counts(device: str) -> None:
    from circa_train.kernels import triton

    z = torch.zeros(1000)
    z[[3, 300, 999, 4, 5]] = torch.tensor([1e6, -1e6, 3e38, float("nan"), float("inf")])
    settings = SiteSettings(TruncatedSign(12), 16, 0, 0, "raise")
    _, counts = triton.forward(z.to(device), settings, torch.tensor([0, 0], device=device), False)
    assert (int(counts[0]), int(counts[7])) == (5, 2)


def check_all_on_the_interpreter() -> None:
    """Every sign test, with dtypes and policies in turn: the interpreter takes about a second per launch."""
    for number, (spec, frac_bits) in enumerate(SPECS):
        check(spec, frac_bits, DTYPES[number % 3], ("wrap", "saturate")[number % 2], "cpu")
    check_counts("cpu")


def test_the_interpreted_kernels_equal_the_reference() -> None:
    path = f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r})"
    code = f"{path}; import test_triton; test_triton.check_all_on_the_interpreter()"
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("by_channel", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_kernels_compile_for_a_gpu_that_is_not_there(dtype: str, by_channel: bool) -> None:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from circa_train.kernels.triton import _forward

    names, bits = _forward.arg_names, "*i32" if dtype == "float32" else "*i16"
    types = dict.fromkeys(names, "i32") | {"z_pointer": bits, "y_pointer": bits, "bound": "fp32"}
    types |= dict.fromkeys(("counts", "address"), "*i64") | dict.fromkeys(
        ("seed_low", "seed_high", "threshold"), "i64"
    )
    types |= dict.fromkeys(("ks", "each_frac_bits"), "*i32")
    flags: dict[str, object] = {"FLOAT": dtype, "TEST": 0, "POLICY": 1, "STATISTICS": False}
    flags |= {"PER_CHANNEL": by_channel, "SCALES": by_channel, "CHANNELS_LAST": False, "LANES": 64}
    constants = {(names.index(name),): value for name, value in flags.items()}
    source = ASTSource(_forward, types | dict.fromkeys(flags, "constexpr"), constants)
    assert (
        "ptx"
        in triton.compile(
            source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 1, "enable_fp_fusion": False}
        ).asm
    )


@gpu
@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("policy", ["wrap", "saturate"])
@pytest.mark.parametrize(("spec", "frac_bits"), SPECS, ids=repr)
def test_the_compiled_kernels_equal_the_reference(
    spec: SignTest, frac_bits: int | tuple[int, ...], dtype: torch.dtype, policy: str
) -> None:
    check(spec, frac_bits, dtype, policy, "cuda")
    check_counts("cuda")


@gpu
@pytest.mark.gpu
def test_a_large_tensor_on_the_gpu_equals_the_compiled_cpu_kernel_and_the_loop_sees_overflow_later() -> None:
    z = torch.randn(64, 64, 32, 32)
    on_cpu, on_gpu = (
        StochasticReLU(TruncatedSign(12), seed=5),
        StochasticReLU(TruncatedSign(12), seed=5).cuda(),
    )
    assert torch.equal(on_gpu(z.cuda()).cpu(), on_cpu(z))
    raise_pending(on_gpu)
    on_gpu(z.cuda() * 1e6)
    with pytest.raises(FixedPointOverflow, match="since the last check"):
        raise_pending(on_gpu)
    raise_pending(on_gpu)
    both = torch.nn.Sequential(on_gpu, StochasticReLU(TruncatedSign(12), seed=6).cuda())
    both(z.cuda() * 1e6)
    with pytest.raises(FixedPointOverflow, match="since the last check"):
        raise_pending(both)
    raise_pending(both)
