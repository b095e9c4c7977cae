"""Reads an exported network with numpy alone and recomputes its test vectors: ``python reader.py
[folder]``.
"""

import json
import sys
from pathlib import Path

import numpy as np


# safetensors: 8 bytes with the header's length, the header (JSON), the data; everything little-endian
def load(path):
    raw, types = path.read_bytes(), {"I32": "<i4", "I64": "<i8", "U8": "u1"}
    start = 8 + int.from_bytes(raw[:8], "little")
    header = {name: e for name, e in json.loads(raw[8:start]).items() if name != "__metadata__"}
    flat = {
        name: np.frombuffer(raw[start:][slice(*e["data_offsets"])], types[e["dtype"]])
        for name, e in header.items()
    }
    return {name: flat[name].reshape(e["shape"]).astype(np.int64) for name, e in header.items()}


# (N, H, W, C, *size), so that a matrix product over the last axes is a convolution
def windows(x, at, size, fill=0):
    x = np.pad(x, [(0, 0), (0, 0), *((pad, pad) for pad in at["padding"])], constant_values=fill)
    (di, dj), (si, sj), (h, w) = at.get("dilation", (1, 1)), at["stride"], size
    view = np.lib.stride_tricks.sliding_window_view(x, ((h - 1) * di + 1, (w - 1) * dj + 1), axis=(2, 3))
    return np.moveaxis(view[:, :, ::si, ::sj, ::di, ::dj], 1, 3)


def convolve(x, at, w):
    v, groups = windows(x, at, w.shape[2:]), at["groups"]
    v, w = v.reshape(*v.shape[:3], groups, -1, 1), w.reshape(groups, len(w) // groups, -1)
    return np.moveaxis((w @ v).reshape(*v.shape[:3], -1), 3, 1)


# one layer: its inputs, all tensors, the mask of a relu or a rescaling
def compute(at, xs, tensors, mask, p, local):
    w, b, index = (tensors.get(f"{at['name']}.{key}") for key in ("weight", "bias", "index"))
    x, k = xs[0], np.reshape(at.get("k", 0), (-1, *[1] * (xs[0].ndim - 2)))  # one k, or one per channel
    rules = {
        "input": lambda: x,
        "conv2d": lambda: convolve(x, at, w) + b.reshape(-1, 1, 1),
        "linear": lambda: x @ w.T + b,
        "relu": lambda: (
            x * (x > 0 if mask is None else (x + mask) % p >> k > (mask >> k) - (at["mode"] == "negpass"))
        ),
        "add": lambda: xs[0] + xs[1],
        "concat": lambda: np.concatenate(xs, at["axis"] + 1),
        "sum_pool": lambda: np.moveaxis(windows(x, at, at["kernel"]).sum((4, 5)), 3, 1),
        "max_pool": lambda: np.moveaxis(windows(x, at, at["kernel"], -p).max((4, 5)), 3, 1),
        "slice": lambda: x[(slice(None), *(slice(*cut) for cut in at["slices"]))],
        "pad": lambda: np.pad(x, [(0, 0), *at["widths"]]),
        "reshape": lambda: x.reshape(len(x), *at["shape"]),
        "gather": lambda: x[:, index],
        # index ascends
        "scatter": lambda: np.insert(np.delete(x, index, 1), index - np.arange(len(index)), xs[1], 1),
        "rescale": lambda: (
            ((x + mask) % p >> at["bits"]) - (mask >> at["bits"]) if local else x >> at["bits"]
        ),
        "shift": lambda: x << at["bits"],
    }
    # centred; int64 never overflows, the export makes sure
    return (rules[at["kind"]]() + p // 2) % p - p // 2


if __name__ == "__main__":
    folder, worst = Path(sys.argv[1] if len(sys.argv) > 1 else "."), 0
    manifest, tensors = (
        json.loads((folder / "manifest.json").read_text()),
        load(folder / "weights.safetensors"),
    )
    vectors = load(folder / "vectors.safetensors")
    for local in (False, True):
        values: dict[str, np.ndarray] = {}
        for at in manifest["layers"]:
            xs = [values[name] for name in at["inputs"]] or [vectors["inputs"]]
            values[at["name"]] = compute(
                at, xs, tensors, vectors.get(f"mask.{at['name']}"), manifest["prime"], local
            )
        difference = (
            values[manifest["output"]["layer"]] - vectors["logits.local" if local else "logits.floor"]
        )
        worst = max(worst, abs(difference).max())
    print(f"largest difference from the recorded logits: {worst}")
    sys.exit(worst != 0)
