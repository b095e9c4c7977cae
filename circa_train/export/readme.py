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
| `vectors.safetensors` | `images` (uint8), `labels`, `inputs`, `mask.<layer>`, `logits.<how>`, `exact.<how>`, `pairs.<layer>.<key>` (int32) |
| `network.onnx` | the real network (BatchNorm folded, exact ReLUs); its nodes have the names of the layers |
| `reader.py` | a reader in 95 lines, and a few more that recompute the test vectors |

**What this folder does not give.** The digests find damage; they do not say who made the folder. Read
`reader.py` before you run it. The gate's law assumes masks that are uniform, fresh for every sign test, and
secret: draw them from a generator made for secrets, never from the test vectors. The parties are semi-honest:
nothing here detects one that deviates.

safetensors: 8 bytes, the length n of the header (little-endian); n bytes of JSON, `{name: {dtype, shape,
data_offsets}}`; then the data, little-endian and row-major.

## Numbers

`prime` is p. (It is null for a network in the ring of integers modulo 2^`ring_bits`: see below.) Every value is an
integer in [-(p-1)/2, (p-1)/2], the *centred* representative of a field
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

**A ring.** Where `ring_bits` is 64, shares live modulo 2^64 and `mode` is `bit_window` (HummingBird, Maeng and Suh,
2023) or `exact`. r is uniform on [0, 2^64), recorded as a signed 64-bit pattern; of the shares x + r and -r the bits
[low, high) are kept, and s = 1 iff the top bit of their sum (of high - low bits) is 0. The values are those of the
integers, up to `largest_value` in magnitude: nothing wraps. Only `floor` is defined there, and recorded; `offset`,
`round_trips` and `shares` are absent.

**Rescaling**, three ways; `rescaling` of the manifest is the one that this network is meant to be run with. Under
a mask r uniform on [0, p) the server holds (x + r) mod p and the client -r.

- `offset` (the default): with o = `offset` of the manifest = floor(p / 4), the server computes
  u = (x + o + r) mod p. While |x| < p / 4, x + o + r wraps exactly if a = [r > p / 2] and c = [u < p / 2]. The
  client knows a offline and the server c online, so one correlated oblivious transfer gives them shares of the
  wrap. The result is

      ((u + p a c) >> bits) - (o >> bits) - ((r + o mod 2^bits) >> bits)

  The first two terms are the server's (with the correction d = ((u + p) >> bits) - (u >> bits) if c, else 0, as
  what the transfer multiplies by a), the last is the client's. It is x / 2^bits rounded up or down, never a unit
  off, and exact where 2^bits divides x. Outside |x| < p / 4 it may be off by p / 2^bits; `ranges` says how far the
  calibration images stayed inside.
- `floor`: x >> bits, exact, and not something that two parties can do cheaply.
- `local`: each party shifts its own share, ((x + r) mod p >> bits) - (r >> bits). Off by at most one unit, except
  with probability |x| / p, where the value is off by p / 2^bits. `rescalings.local.wraps_per_image` says how many
  values per image to expect that of, `ranges` in which layers (`wrap_faults`); at 31 bits it ruins a network.

**Truncate, then multiply.** Under `offset` the mask r of an element that comes out of a `relu` is that relu's t: both
parties rescale their shares of x and multiply by the gate s afterwards. As 0 is rescaled to 0, the value is the same
as if s x had been rescaled, so the list of layers keeps its order. This holds through layers that only move values
(`reshape`, `slice`, `pad`, `gather`, `concat`, `scatter`): a mask goes where its value goes. All other elements
(of a `sum_pool`, of a relu whose `mode` is `exact`), and all under `local`, have the masks `mask.<rescale>`.

## Who holds which share

Each layer has `shares`, for a run under `offset`. The client's share of every value is known before the online phase:

| `client` | the client's share of the layer's value | the server's |
|---|---|---|
| `fresh` | minus a new uniform mask: of the input, after a linear layer, after a round trip | the value plus that mask |
| `local` | the layer applied to the client's own shares | the layer applied to its own |
| `protocol` | what a protocol of its own leaves (`max_pool`) | likewise |

`trips` numbers the online round trips, `round_trips` in all: one for every `relu`. A `rescale` whose elements come out
of a relu (`masks_of`) rides in that relu's trip. Down: the labels of x + t, the server's opening, one field element of the
transfer per rescaled value. Up: the client's opening and its share of the product under a fresh mask. A relu's
own product s x is brought back, too, where `carried` says that something reads it unrescaled (a shortcut). A
rescaling of other values (a pooling's) takes a trip of its own: the transfer's element down, the fresh share up.
`refreshed`: the client's share of what the layer reads is not a mask chosen for this layer alone (it was pooled, or
somebody else reads it, too). In the offline phase the client sends the new mask less the old one, and the server adds it.

## Test vectors

`mask.<layer>` are the masks t of a `relu` (absent for `exact`) and r of a `rescale`. With them, `inputs` must give
`logits.offset`, `logits.floor` and `logits.local`, to the bit; with exact ReLUs (s = x > 0) in place of the recorded
gates, and the same masks of the rescalings, `exact.offset`, `exact.floor` and `exact.local`. If they do not:
`vectors.layer_sums` and `vectors.offset_layer_sums` of the manifest have, per layer and image, the sum modulo p of all
values under `floor` and `offset`; the first layer that differs is where to look.

`vectors.overflows` counts the values that left the field, or the domain of the rescaling, in each of these runs: where
it is 0, a runtime over a larger ring computes the same. `vectors.real_logits` are those of `network.onnx`, in float32.

`pairs.<layer>.x` and `.mask` are values and masks that the images hardly reach: ties at every bit, wraps in both
directions. `.gate` is the s of a `relu` (with one `k` per channel, channels are the second axis), `.local` and `.offset`
are the results of a `rescale`, outside its domain, too. A wrong k, mode or offset does not get past them.

## The rest of the manifest

`accuracy` was measured on this integer network (null if it was not), under `rescaling` and, as `rescalings`, under
each of the three. `folding` says which BatchNorm became
part of which layer. `ranges`: per layer the range seen on calibration images, room left in bits, and
expected faults per image; of a rescaling, the wraps that `local` and (`offset_wraps`) `offset` would suffer. `site` numbers address masks in circa_train. `provenance` says what this was made
from. """


def reader_text() -> str:
    """The source of ``reader.py``."""
    return Path(__file__).with_name("reader.py").read_text(encoding="utf-8")
