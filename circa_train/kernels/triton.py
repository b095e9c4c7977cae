"""The forward and backward of a site on CUDA, by Triton: one pass each, and the host never waits.

The bits are those of :mod:`circa_train.kernels.reference`, for float32, bfloat16 and float16. Values that
overflow, or are not finite, are counted on the device. Nothing is raised here, because the host would have to
wait for the device first.

A program does one run: 64 Philox blocks, whose four words go to four groups of 64 elements. All arithmetic is
exact: the scale is a power of two; rounding adds 2^23 and subtracts it; and a value beyond the field is
reduced modulo p as mantissa times a power of two. Subnormal numbers do not matter: they round to 0 at every
number of fraction bits.

With TRITON_INTERPRET=1 set before Triton is imported, the same kernels run on CPU tensors, slowly. That is
how they are tested without a GPU.
"""

# ruff: noqa: N803, SIM102 - Triton writes constexpr arguments in capitals, and its compiler decides the
# outer `if`s

from __future__ import annotations

import functools
import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from circa_train.fault import BitWindow, SignTest, TruncatedSign, UniformFault
from circa_train.fault.masks import LANES, RUN
from circa_train.field import largest_centred
from circa_train.fixed_point import check_channels
from circa_train.kernels.settings import COUNTS, SiteSettings, is_channels_last, largest_float

#: Dtypes that the kernels compute, with the integer of the same size and the position of the sign.
BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}

_TESTS = {"poszero": 0, "negpass": 1, UniformFault: 2, BitWindow: 3}
_POLICIES = {"raise": 0, "wrap": 1, "saturate": 2}
_DIRECTIONS = {"both": 0, "zeroed": 1, "passed": 2}

_GRADIENT_BLOCK = 1024


def computes(spec: SignTest) -> bool:
    """Do these kernels compute the sign test? A class derived from one that they do is another sign test."""
    return type(spec) in (TruncatedSign, UniformFault, BitWindow)


def forward(z: Tensor, settings: SiteSettings, address: Tensor, statistics: bool) -> tuple[Tensor, Tensor]:
    """(y, counts) as :func:`circa_train.kernels.reference.forward` has them; counts[7] says how many values
    are not finite.
    """
    spec = settings.spec
    channels_last = is_channels_last(z)
    dense = z if channels_last else z.contiguous()
    y = torch.empty_like(dense)
    counts = torch.zeros(len(COUNTS) + 1, dtype=torch.int64, device=z.device)
    if type(spec) is TruncatedSign:
        test, (low, high), threshold, direction = _TESTS[spec.mode], (0, 0), 2**32 % spec.prime, 0
        spec.shift(z.shape, torch.device("cpu"))  # refuses another number of channels
        k = spec.k
    else:
        test, k = _TESTS[type(spec)], 0
        low, high = (spec.low, spec.high) if type(spec) is BitWindow else (0, 0)
        threshold, direction = (
            (spec.threshold, _DIRECTIONS[spec.direction]) if type(spec) is UniformFault else (0, 0)
        )
    check_channels(settings.frac_bits, z.shape)
    limit = largest_centred(settings.prime)
    bound = largest_float(limit)
    ks, each_frac_bits = (_by_channel(given, z.device) for given in (k, settings.frac_bits))
    common = settings.frac_bits if isinstance(settings.frac_bits, int) else settings.frac_bits[0]
    if z.numel():
        runs = -(-z.numel() // RUN) + 1  # one more, as the first run may begin before the tensor
        _forward[(runs,)](
            dense.view(BITS[z.dtype]), y.view(BITS[z.dtype]), counts, address, ks, each_frac_bits,
            z.numel(), math.prod(z.shape[1:]), z.shape[1] if z.dim() > 1 else 1,
            max(math.prod(z.shape[2:]), 1), settings.seed & 0xFFFFFFFF, settings.seed >> 32, settings.site,
            settings.prime, limit, bound, threshold, direction, common, low, high,
            FLOAT=str(z.dtype).removeprefix("torch."), TEST=test, POLICY=_POLICIES[settings.overflow],
            STATISTICS=statistics,
            PER_CHANNEL=ks.numel() > 1, SCALES=each_frac_bits.numel() > 1, CHANNELS_LAST=channels_last,
            LANES=LANES, num_warps=1,
            enable_fp_fusion=False,
        )  # fmt: skip
    if dense is not z and y.stride() != torch.empty_like(z).stride():
        y = torch.empty_like(z).copy_(y)
    return y, counts


@functools.lru_cache(maxsize=1024)
def _by_channel(given: int | tuple[int, ...], device: torch.device) -> Tensor:
    """One int32, or one per channel, on the device. Kept, so that no forward has to copy it there again."""
    return torch.tensor(given if isinstance(given, tuple) else (given,), dtype=torch.int32, device=device)


def backward(grad: Tensor, y: Tensor) -> Tensor:
    """The gradient where y shows that the gate was open, else 0. It lies in memory as y does."""
    out = torch.empty_like(y)  # without gaps in memory, whatever the order of dimensions
    y, grad = (t if t.stride() == out.stride() else torch.empty_like(out).copy_(t) for t in (y, grad))
    if y.numel():
        bits = BITS[y.dtype]
        grid = (-(-y.numel() // _GRADIENT_BLOCK),)
        _backward[grid](
            grad.view(bits),
            y.view(bits),
            out.view(bits),
            y.numel(),
            BLOCK=_GRADIENT_BLOCK,
            enable_fp_fusion=False,
        )
    return out


@triton.jit
def _philox(c0, c1, c2, c3, k0, k1):
    """Philox4x32-10 on uint32."""
    for _ in tl.static_range(10):
        high0, low0 = (
            tl.umulhi(c0, tl.full(c0.shape, 0xD2511F53, tl.uint32)),
            c0 * tl.full(c0.shape, 0xD2511F53, tl.uint32),
        )
        high1, low1 = (
            tl.umulhi(c2, tl.full(c0.shape, 0xCD9E8D57, tl.uint32)),
            c2 * tl.full(c0.shape, 0xCD9E8D57, tl.uint32),
        )
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0 = k0 + tl.full(k0.shape, 0x9E3779B9, tl.uint32)
        k1 = k1 + tl.full(k1.shape, 0xBB67AE85, tl.uint32)
    return c0, c1, c2, c3


@triton.jit
def _words(block, attempt, site, draw, seed_low, seed_high):
    """The four words of each block (int64), as addressed in :mod:`circa_train.fault.masks`."""
    zero = tl.zeros(block.shape, tl.int64)
    return _philox(
        (block & 0xFFFFFFFF).to(tl.uint32),
        ((block >> 32) | (attempt << 8) | (zero + (site << 16))).to(tl.uint32),
        (zero + (draw & 0xFFFFFFFF)).to(tl.uint32),
        (zero + (draw >> 32)).to(tl.uint32),
        (zero + seed_low).to(tl.uint32),
        (zero + seed_high).to(tl.uint32),
    )


@triton.jit
def _accept(mask, pending, word, prime, threshold):
    """(mask, pending) after one more attempt. Where a mask was pending, it is now Lemire's product of the
    word, if that is accepted. All numbers are uint32.
    """
    accepted = pending & (word * prime >= threshold)
    return tl.where(accepted, tl.umulhi(word, prime), mask), pending & ~accepted


@triton.jit
def _residue(z, rounded, frac_bits, prime):
    """A finite float32 times 2^frac_bits, reduced modulo p into [0, p). Exact, from mantissa and exponent."""
    bits = z.to(tl.int32, bitcast=True)
    exponent = ((bits >> 23) & 0xFF) - 150 + frac_bits
    mantissa = ((bits & 0x7FFFFF) | 0x800000).to(tl.int64)
    small = tl.where(exponent < 0, tl.abs(rounded), 0.0).to(tl.int64)
    residue = tl.where(exponent < 0, small, mantissa) % prime
    power = tl.full(residue.shape, 2, tl.int64) % prime
    exponent = tl.maximum(exponent, 0)
    for bit in tl.static_range(8):
        residue = tl.where((exponent >> bit) & 1 != 0, residue * power % prime, residue)
        power = power * power % prime
    return tl.where((bits < 0) & (residue > 0), prime - residue, residue)


@triton.jit
def _fixed(z, inside, scaled, frac_bits, limit, prime, POLICY: tl.constexpr):
    """x (int32) of the rounded values. For a value outside of the field it is what the policy says, or 0."""
    x = tl.where(inside, scaled, 0.0).to(tl.int32)
    if POLICY == 1:  # decided by the compiler; the next `if` by the device
        if tl.max((~inside).to(tl.int32)) > 0:
            residue = _residue(
                z, tl.where(tl.abs(scaled) < 8388608.0, scaled, 0.0), frac_bits, prime.to(tl.int64)
            )
            centred = tl.where(residue > limit, residue - prime, residue).to(tl.int32)
            x = tl.where(inside | ~(tl.abs(z) <= 3.4028234663852886e38), x, centred)
    if POLICY == 2:
        x = tl.where(inside, x, tl.where(scaled > 0, limit, tl.where(scaled < 0, -limit, 0)))
    return x


@triton.jit(
    do_not_specialize=[
        "seed_low",
        "seed_high",
        "site",
        "prime",
        "limit",
        "threshold",
        "direction",
        "frac_bits",
        "low",
        "high",
    ]
)
def _forward(
    z_pointer, y_pointer, counts, address, ks, each_frac_bits, elements, per_image, channels, plane,
    seed_low, seed_high, site, prime, limit, bound, threshold, direction, frac_bits, low, high,
    FLOAT: tl.constexpr, TEST: tl.constexpr, POLICY: tl.constexpr, STATISTICS: tl.constexpr,
    PER_CHANNEL: tl.constexpr, SCALES: tl.constexpr, CHANNELS_LAST: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    draw = tl.load(address)
    first = tl.load(address + 1) * per_image
    run = first // (4 * LANES) + tl.program_id(0)
    start = run * (4 * LANES) - first  # of the run, in the tensor; the first run may begin before it
    begin, end = tl.maximum(-start, 0).to(tl.int32), tl.minimum(elements - start, 4 * LANES).to(tl.int32)
    lanes = tl.arange(0, LANES)
    block, attempt = run * LANES + lanes.to(tl.int64), tl.zeros([LANES], tl.int64)
    none = tl.zeros([LANES], tl.int32)
    p = none.to(tl.uint32) + prime.to(tl.uint32)
    w0, w1, w2, w3 = _words(block, attempt, site, draw, seed_low, seed_high)
    if TEST < 2:
        least, each = none.to(tl.uint32) + threshold.to(tl.uint32), lanes >= 0
        m0, r0 = _accept(w0, each, w0, p, least)
        m1, r1 = _accept(w1, each, w1, p, least)
        m2, r2 = _accept(w2, each, w2, p, least)
        m3, r3 = _accept(w3, each, w3, p, least)
        while tl.max((r0 | r1 | r2 | r3).to(tl.int32)) > 0:
            attempt += 1
            w0, w1, w2, w3 = _words(block, attempt, site, draw, seed_low, seed_high)
            m0, r0 = _accept(m0, r0, w0, p, least)
            m1, r1 = _accept(m1, r1, w1, p, least)
            m2, r2 = _accept(m2, r2, w2, p, least)
            m3, r3 = _accept(m3, r3, w3, p, least)
    elif TEST == 2:
        m0, m1, m2, m3 = w0, w1, w2, w3
    else:
        h0, h1, h2, h3 = _words(block, attempt + 1, site, draw, seed_low, seed_high)
        m0, m1 = w0.to(tl.int64) | (h0.to(tl.int64) << 32), w1.to(tl.int64) | (h1.to(tl.int64) << 32)
        m2, m3 = w2.to(tl.int64) | (h2.to(tl.int64) << 32), w3.to(tl.int64) | (h3.to(tl.int64) << 32)
    scale = ((frac_bits + 127) << 23).to(tl.float32, bitcast=True)
    fraction = frac_bits
    outside, infinite, wrap_zeroed, wrap_passed, zeroed, passed = none, none, none, none, none, none
    for place in tl.static_range(4):
        mask = m0 if place == 0 else (m1 if place == 1 else (m2 if place == 2 else m3))
        within = place * LANES + lanes
        valid = (within >= begin) & (within < end)
        offset = start + within
        if CHANNELS_LAST:
            pixel, image = offset % plane, offset // (channels * plane)
            offset = (image * plane + pixel) * channels + offset // plane % channels
        bits = tl.load(z_pointer + offset, mask=valid, other=0)
        if FLOAT == "float32":
            z = bits.to(tl.float32, bitcast=True)
            sign = tl.full([LANES], -2147483648, tl.int32)
        elif FLOAT == "bfloat16":
            z = (bits.to(tl.int32) << 16).to(tl.float32, bitcast=True)
            sign = tl.full([LANES], -32768, tl.int16)
        else:
            z = bits.to(tl.float16, bitcast=True).to(tl.float32)
            sign = tl.full([LANES], -32768, tl.int16)
        if SCALES:
            fraction = tl.load(each_frac_bits + (start + within) // plane % channels, mask=valid, other=0)
            scale = ((fraction + 127) << 23).to(tl.float32, bitcast=True)
        scaled = z * scale
        size = tl.abs(scaled)
        # from 2^23 on, numbers are integers
        size = tl.where(size < 8388608.0, (size + 8388608.0) - 8388608.0, size)
        scaled = tl.where(scaled < 0, -size, size)
        inside = size <= bound
        x = _fixed(z, inside, scaled, fraction, limit, prime, POLICY)
        if TEST < 2:
            # modulo 2^32 a number below 0 is huge: of v and v + p (or v - p), the smaller one is reduced
            total = x.to(tl.uint32, bitcast=True) + mask
            wrapped = total >= p
            server = x.to(tl.uint32, bitcast=True)
            server = tl.minimum(server, server + p) + mask
            server = tl.minimum(server, server - p)
            if PER_CHANNEL:
                k = tl.load(ks + (start + within) // plane % channels, mask=valid, other=0).to(tl.uint32)
            else:
                k = tl.load(ks).to(tl.uint32)
            gate = (server >> k) > (mask >> k) if TEST == 0 else (server >> k) >= (mask >> k)
        elif TEST == 2:
            meant = ((x > 0) & (direction != 2)) | ((x < 0) & (direction != 1))
            gate = (x > 0) ^ (meant & (mask.to(tl.int64) < threshold))
            wrapped = lanes < 0
        else:
            wide = x.to(tl.int64)
            ones = (tl.full([LANES], 2, tl.int64) << (high - low - 1)) - 1
            total = (((wide + mask) >> low) & ones) + (((-mask) >> low) & ones)
            gate = ((total >> (high - low - 1)) & 1) == 0
            negative = (wide >> (high - 1)) & 1 != 0
            wrapped = ((x > 0) & negative) | ((x < 0) & ~negative)
        shown = tl.where((bits | sign) == sign, sign, bits)
        tl.store(y_pointer + offset, tl.where(gate, shown, sign ^ sign), mask=valid)
        outside += (valid & ~inside).to(tl.int32)
        infinite += (valid & ~(tl.abs(z) <= 3.4028234663852886e38)).to(tl.int32)
        if STATISTICS:
            lost, kept = valid & (x > 0) & ~gate, valid & (x < 0) & gate
            wrap_zeroed += (lost & wrapped).to(tl.int32)
            wrap_passed += (kept & wrapped).to(tl.int32)
            zeroed += (lost & ~wrapped).to(tl.int32)
            passed += (kept & ~wrapped).to(tl.int32)
    if tl.max(outside) > 0:
        tl.atomic_add(counts, tl.sum(outside).to(tl.int64))
        tl.atomic_add(counts + 7, tl.sum(infinite).to(tl.int64))
    if STATISTICS:
        tl.atomic_add(counts + 1, tl.sum(wrap_zeroed).to(tl.int64))
        tl.atomic_add(counts + 2, tl.sum(wrap_passed).to(tl.int64))
        tl.atomic_add(counts + (5 if TEST == 2 else 3), tl.sum(zeroed).to(tl.int64))
        tl.atomic_add(counts + (6 if TEST == 2 else 4), tl.sum(passed).to(tl.int64))


@triton.jit
def _backward(grad, y, out, elements, BLOCK: tl.constexpr):
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    valid = index < elements
    bits = tl.load(grad + index, mask=valid, other=0)
    opened = tl.load(y + index, mask=valid, other=0) != 0
    tl.store(out + index, tl.where(opened, bits, tl.zeros([BLOCK], bits.dtype)), mask=valid)
