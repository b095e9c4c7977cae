"""Reads an exported network with numpy alone, recomputes its test vectors: ``python reader.py [folder]``."""

import hashlib
import json
from pathlib import Path

import numpy as np

READ = "manifest.json", "weights.safetensors", "vectors.safetensors"
FILES = *READ, "network.onnx", "README.md", "reader.py"


class FolderError(ValueError):
    """This is no export folder, or one that is damaged, or of a format that this reader does not know."""


# manifest, tensors and vectors of a folder whose every file has its checksum
def open_folder(folder):
    try:
        raw = {name: (Path(folder) / name).read_bytes() for name in ("SHA256SUMS", *FILES)}
    except OSError as error:
        raise FolderError(f"{folder} is no export folder: {error}") from error
    sums = dict(line.split("  ", 1)[::-1] for line in raw["SHA256SUMS"].decode().splitlines())
    for name in FILES:
        if hashlib.sha256(raw[name]).hexdigest() != sums.get(name):
            raise FolderError(f"{folder}/{name} is damaged: SHA256SUMS says another SHA-256")
    try:
        manifest, tensors, vectors = (json.loads(raw[READ[0]]), *(load(raw[name]) for name in READ[1:]))
        known = manifest["format"] in (1, 2, 3)
    except Exception as error:
        raise FolderError(f"{folder} is not understood: {type(error).__name__}: {error}") from error
    if not known:
        raise FolderError(f"{folder} is of format {manifest['format']}; this reader knows 1 to 3")
    return manifest, tensors, vectors


# safetensors: 8 bytes with the header's length, the header (JSON), the data; everything little-endian
def load(raw):
    types, start = {"I32": "<i4", "I64": "<i8", "U8": "u1"}, 8 + int.from_bytes(raw[:8], "little")
    header, data = {n: e for n, e in json.loads(raw[8:start]).items() if n != "__metadata__"}, raw[start:]
    flat = {n: np.frombuffer(data[slice(*e["data_offsets"])], types[e["dtype"]]) for n, e in header.items()}
    return {n: flat[n].reshape(e["shape"]).astype(np.int64) for n, e in header.items()}


# (N, H, W, C, *size), so that a matrix product over the last axes is a convolution
def windows(x, at, size, fill=0):
    x = np.pad(x, [(0, 0), (0, 0), *((pad, pad) for pad in at["padding"])], constant_values=fill)
    (di, dj), (si, sj), (h, w) = at.get("dilation", (1, 1)), at["stride"], size
    view = np.lib.stride_tricks.sliding_window_view(x, ((h - 1) * di + 1, (w - 1) * dj + 1), axis=(2, 3))
    return np.moveaxis(view[:, :, ::si, ::sj, ::di, ::dj], 1, 3)


def convolve(x, at, w):
    v = windows(x, at, w.shape[2:]).reshape(len(x), *at["shape"][1:], groups := at["groups"], -1, 1)
    return np.moveaxis((w.reshape(groups, len(w) // groups, -1) @ v).reshape(*v.shape[:3], -1), 3, 1)


# the gate under the mask: of shares modulo p, or of the bits [low, high) of shares modulo 2^64
def sign(x, mask, at, p, k):
    if at["mode"] == "bit_window":
        width = at["high"] - at["low"]
        both = sum(each >> at["low"] & 2**width - 1 for each in (x + mask, -mask))
        return both >> width - 1 & 1 == 0
    return (x + mask) % p >> k > (mask >> k) - (at["mode"] == "negpass")


# what both shares under the mask r become: shifted as they are (local), or offset by o, when the wrap of u is
# known: [r > p / 2] and [u < p / 2]
def rescale(x, r, bits, p, how):
    o = p // 4 * (how == "offset")
    wrap = (o > 0) & (2 * r > p) & (2 * (u := (x + o + r) % p) < p)
    return (u + p * wrap >> bits) - (o >> bits) - (r + o % 2**bits >> bits)


# one layer: its inputs, all tensors, the mask of a relu (None: exact) or of a rescaling, and how to rescale
def compute(at, xs, tensors, mask, p, how):
    w, b, index = (tensors.get(f"{at['name']}.{key}") for key in ("weight", "bias", "index"))
    x, k = xs[0], np.reshape(at.get("k", 0), (-1, *[1] * (xs[0].ndim - 2)))
    rules = {
        "input": lambda: x,
        "conv2d": lambda: convolve(x, at, w) + b.reshape(-1, 1, 1),
        "linear": lambda: x @ w.T + b,
        "relu": lambda: x * (x > 0 if mask is None else sign(x, mask, at, p, k)),
        "add": lambda: xs[0] + xs[1],
        "concat": lambda: np.concatenate(xs, at["axis"] + 1),
        "sum_pool": lambda: np.moveaxis(windows(x, at, at["kernel"]).sum((4, 5)), 3, 1),
        "max_pool": lambda: np.moveaxis(windows(x, at, at["kernel"], -(2**62)).max((4, 5)), 3, 1),
        "slice": lambda: x[(slice(None), *(slice(*cut) for cut in at["slices"]))],
        "pad": lambda: np.pad(x, [(0, 0), *at["widths"]]),
        "reshape": lambda: x.reshape(len(x), *at["shape"]),
        "gather": lambda: x[:, index],
        "scatter": lambda: np.insert(np.delete(x, index, 1), index - np.arange(len(index)), xs[1], 1),
        "rescale": lambda: x >> at["bits"] if how == "floor" else rescale(x, mask, at["bits"], p, how),
        "shift": lambda: x << at["bits"],
    }
    value = rules[at["kind"]]()  # the export makes sure that int64 never overflows
    return value if p is None else (value + p // 2) % p - p // 2  # centred; the ring of 2^64 is int64's own


MOVES = "reshape", "slice", "pad", "gather", "concat", "scatter"


# the recorded mask of every relu (None: exact) and rescaling; "offset" rescales under the mask of the relu
# that a value comes from, wherever it was moved, and values of no relu (-1) under the rescaling's own
def masks_of(layers, tensors, vectors, how):
    masks: dict[str, np.ndarray] = {}
    origin: dict[str, np.ndarray] = {}
    for at in layers:
        name, sources, images = at["name"], [origin[each] for each in at["inputs"]], len(vectors["inputs"])
        own = masks[name] = vectors.get(f"mask.{name}")
        none = np.full((images, *at["shape"]), -1)
        origin[name] = own if at["kind"] == "relu" and own is not None else none
        if at["kind"] in MOVES:
            origin[name] = compute(at, sources, tensors, None, 2**40, "")
        elif at["kind"] == "rescale" and how == "offset":
            masks[name] = np.where(sources[0] < 0, own, sources[0])
    return masks


# where a layer's values come from, for a runtime that can only pick: numbers of its inputs' values of one
# image, flat and one input after the other, from 1; 0 is a zero. Of windows: (H, W, groups, terms of one sum)
def places(at, shapes, tensors):
    ends = np.cumsum([1, *(np.prod(shape) for shape in shapes)]).astype(int)
    parts = [np.arange(*ends[i : i + 2]).reshape(1, *shape) for i, shape in enumerate(shapes)]
    if at["kind"] in MOVES:
        return compute(at, parts, tensors, None, 2**40, "")[0]
    seen = windows(parts[0], at, at.get("kernel") or tensors[f"{at['name']}.weight"].shape[2:])[0]
    return seen.reshape(*seen.shape[:2], at.get("groups", len(parts[0][0])), -1)


if __name__ == "__main__":
    import sys

    try:
        manifest, tensors, vectors = open_folder(sys.argv[1] if len(sys.argv) > 1 else ".")
    except FolderError as error:
        sys.exit(str(error))
    p, layers, worst = manifest["prime"], manifest["layers"], 0

    def run(how, exact):
        values: dict[str, np.ndarray] = {}
        masks = masks_of(layers, tensors, vectors, how)
        for at in layers:
            xs = [values[name] for name in at["inputs"]] or [vectors["inputs"]]
            mask = None if exact and at["kind"] == "relu" else masks[at["name"]]
            values[at["name"]] = compute(at, xs, tensors, mask, p, how)
        return values[manifest["output"]["layer"]]

    for name in vectors:
        kind, _, how = name.partition(".")
        if kind in ("logits", "exact"):
            worst = max(worst, abs(run(how, kind == "exact") - vectors[name]).max())
    for at in layers:  # the pairs that every sign test and every rescaling has of its own
        named = [(f".{name}".rsplit(".", 1), value) for name, value in vectors.items()]
        pairs = {key: value for (layer, key), value in named if layer == f".pairs.{at['name']}"}
        for how in pairs.keys() - {"x", "mask"}:
            wanted = pairs["x"] * pairs["gate"] if how == "gate" else pairs[how]
            worst = max(worst, abs(compute(at, [pairs["x"]], tensors, pairs["mask"], p, how) - wanted).max())
    print(f"largest difference from the recorded logits: {worst}")
    sys.exit(worst != 0)
