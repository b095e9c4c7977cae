"""The two text files of an export folder: the format in words, and in numpy."""

from __future__ import annotations

from pathlib import Path

README = """\
# A network for private inference, in integers

This folder says everything that a runtime needs to evaluate one network on additive shares over Z_p, with
the ReLUs of Circa (Ghodsi, Jha, Reagen, Garg, NeurIPS 2021): a sign test on the shares, truncated by k
bits, and a product. Written by circa_train. Check the files with `sha256sum -c SHA256SUMS`, the arithmetic
with `python reader.py`, which needs numpy alone.

| file | contents |
|---|---|
| `manifest.json` | everything but the tensors, see below |
| `weights.safetensors` | int32 tensors `<layer>.weight`, `<layer>.bias`, `<layer>.index` |
| `vectors.safetensors` | `images` (uint8), `labels`, `inputs`, `mask.<layer>`, `logits.floor`, `logits.local` (int32) |
| `network.onnx` | the real network (BatchNorm folded, exact ReLUs); its nodes have the names of the layers |
| `reader.py` | a reader in 40 lines, and ten that recompute the test vectors |

safetensors: 8 bytes, the length n of the header (little-endian); n bytes of JSON, `{name: {dtype, shape,
data_offsets}}`; then the data, little-endian and row-major.

## Numbers

`prime` is p. Every value is an integer in [-(p-1)/2, (p-1)/2], the *centred* representative of a field
element; whatever leaves that range is reduced modulo p. A layer's real value is `integer * factor /
2^frac_bits`, with its own `frac_bits` and `factor` (a fraction, [numerator, denominator]). No sum of a
linear layer leaves int64, whatever the inputs.

The client's input: pixels in [0, 1], minus `input.mean`, divided by `input.std` (per channel), times
2^`input.frac_bits`, rounded half to even. The logits are the values of layer `output.layer`; the class is the
largest.

## Layers

`layers` is the network in the order of execution. Each has a unique `name`, the `inputs` it reads (names of
earlier layers), the `shape` of its value for one image, and by `kind`:

| kind | value |
|---|---|
| `input` | the client's input |
| `conv2d` | cross-correlation with `weight` (out, in / groups, h, w), zero padding, plus `bias` |
| `linear` | `weight` (out, in) times x, plus `bias` |
| `relu` | x where the gate s is 1, else 0 |
| `add`, `concat` | sum of two values; all inputs along `axis` (of one image) |
| `sum_pool` | sum over windows of the zero-padded map: average pooling, whose division is in `frac_bits` and `factor` |
| `max_pool` | largest of each window, padding excluded. Needs comparisons: no protocol on shares does it for free |
| `slice` | per axis [start, stop, step] |
| `pad` | zeros, per axis [before, after] |
| `reshape` | same elements, row-major |
| `gather` | entries `index` of the first axis |
| `scatter` | the first input, with the entries `index` (ascending) of its first axis replaced by the second input |
| `rescale` | drops `bits` fraction bits, see below |
| `shift` | x times 2^`bits` |

**Gate.** For a mask t uniform on [0, p), the server's share is x_s = (x + t) mod p, the client's p - t. By
`mode`: `poszero`: s = (x_s >> k) > (t >> k). `negpass`: s = (x_s >> k) >= (t >> k). `exact`: s = x > 0. `k`
is one number, or one per channel. Masks must be exactly uniform, fresh for every element and every
inference.

**Rescaling**, two ways; `rescaling` of the manifest is the one that its `accuracy` was measured with.
`floor`: x >> bits, exact. `local`: each party shifts its own share; under a mask r uniform on [0, p) the
result is ((x + r) mod p >> bits) - (r >> bits). That is off by at most one unit, except with probability
|x| / p, where the value is lost; `ranges` says how often to expect that.

## Test vectors

`mask.<layer>` are the masks t of a `relu` (absent for `exact`) and r of a `rescale`. With them, `inputs`
must give `logits.floor` or `logits.local`, to the bit. If they do not: `vectors.layer_sums` of the manifest
has, per layer and image, the sum modulo p of all values (floor); the first layer that differs is where to
look.

## The rest of the manifest

`accuracy` was measured on this integer network (null if it was not). `folding` says which BatchNorm became
part of which layer. `ranges`: per layer the range seen on calibration images, room left in bits, and
expected faults per image. `site` numbers address masks in circa_train. `provenance` says what this was made
from. """


def reader_text() -> str:
    """The source of ``reader.py``."""
    return Path(__file__).with_name("reader.py").read_text(encoding="utf-8")
