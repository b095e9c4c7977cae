"""Reads an exported network with numpy alone, recomputes its test vectors: ``python reader.py [folder]``."""

import json

import numpy as np


# safetensors: 8 bytes with the header's length, the header (JSON), the data; everything little-endian
def load(path):
    raw, types = path.read_bytes(), {"I32": "<i4", "I64": "<i8", "U8": "u1"}
    start = 8 + int.from_bytes(raw[:8], "little")
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


# what both shares under the mask r become: shifted as they are (local), or offset by o, when the wrap of u is
# known: [r > p / 2] and [u < p / 2]
def rescale(x, r, bits, p, how):
    o = p // 4 * (how == "offset")
    wrap = (o > 0) & (2 * r > p) & (2 * (u := (x + o + r) % p) < p)
    return (u + p * wrap >> bits) - (o >> bits) - (r + o % 2**bits >> bits)


# one layer: its inputs, all tensors, the mask of a relu (None: exact) or of a rescaling, and how to rescale
def compute(at, xs, tensors, mask, p, how):
    w, b, index = (tensors.get(f"{at['name']}.{key}") for key in ("weight", "bias", "index"))
    x, ties, k = xs[0], at.get("mode") == "negpass", np.reshape(at.get("k", 0), (-1, *[1] * (xs[0].ndim - 2)))
    rules = {
        "input": lambda: x,
        "conv2d": lambda: convolve(x, at, w) + b.reshape(-1, 1, 1),
        "linear": lambda: x @ w.T + b,
        "relu": lambda: x * (x > 0 if mask is None else (x + mask) % p >> k > (mask >> k) - ties),
        "add": lambda: xs[0] + xs[1],
        "concat": lambda: np.concatenate(xs, at["axis"] + 1),
        "sum_pool": lambda: np.moveaxis(windows(x, at, at["kernel"]).sum((4, 5)), 3, 1),
        "max_pool": lambda: np.moveaxis(windows(x, at, at["kernel"], -p).max((4, 5)), 3, 1),
        "slice": lambda: x[(slice(None), *(slice(*cut) for cut in at["slices"]))],
        "pad": lambda: np.pad(x, [(0, 0), *at["widths"]]),
        "reshape": lambda: x.reshape(len(x), *at["shape"]),
        "gather": lambda: x[:, index],
        "scatter": lambda: np.insert(np.delete(x, index, 1), index - np.arange(len(index)), xs[1], 1),
        "rescale": lambda: x >> at["bits"] if how == "floor" else rescale(x, mask, at["bits"], p, how),
        "shift": lambda: x << at["bits"],
    }
    return (rules[at["kind"]]() + p // 2) % p - p // 2  # centred; the export makes sure int64 never overflows


if __name__ == "__main__":
    import sys
    from pathlib import Path

    folder, worst = Path(sys.argv[1] if len(sys.argv) > 1 else "."), 0
    manifest = json.loads((folder / "manifest.json").read_text())
    tensors, vectors = load(folder / "weights.safetensors"), load(folder / "vectors.safetensors")
    p, layers = manifest["prime"], manifest["layers"]

    # "offset" rescales under the mask of the relu that a value comes from; other values (-1) under its own
    def masks_of(at, masks, own, value):
        if at["kind"] in ("reshape", "slice", "pad", "gather", "concat", "scatter"):
            return compute(at, [masks[name] for name in at["inputs"]], tensors, None, 2**40, "")
        return own if at["kind"] == "relu" and own is not None else np.full_like(value, -1)

    def run(how, exact):
        values: dict[str, np.ndarray] = {}
        masks: dict[str, np.ndarray] = {}
        for at in layers:
            xs = [values[name] for name in at["inputs"]] or [vectors["inputs"]]
            own = mask = vectors.get(f"mask.{at['name']}")
            if at["kind"] == "rescale" and how == "offset":
                mask = np.where(masks[at["inputs"][0]] < 0, own, masks[at["inputs"][0]])
            elif at["kind"] == "relu" and exact:
                mask = None
            values[at["name"]] = compute(at, xs, tensors, mask, p, how)
            masks[at["name"]] = masks_of(at, masks, own, values[at["name"]])
        return values[manifest["output"]["layer"]]

    for how in ("offset", "floor", "local"):
        for kind in ("logits", "exact"):
            worst = max(worst, abs(run(how, kind == "exact") - vectors[f"{kind}.{how}"]).max())
    for at in layers:  # the pairs that every sign test and every rescaling has of its own
        named = [(f".{name}".rsplit(".", 1), value) for name, value in vectors.items()]
        pairs = {key: value for (layer, key), value in named if layer == f".pairs.{at['name']}"}
        for how in pairs.keys() - {"x", "mask"}:
            wanted = pairs["x"] * pairs["gate"] if how == "gate" else pairs[how]
            worst = max(worst, abs(compute(at, [pairs["x"]], tensors, pairs["mask"], p, how) - wanted).max())
    print(f"largest difference from the recorded logits: {worst}")
    sys.exit(worst != 0)
