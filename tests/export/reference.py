"""The integer network in Python's own integers, one image at a time: what the executor must equal."""

from __future__ import annotations

import itertools
import math
from typing import Any

from circa_train.export.layers import layer_to_dict
from circa_train.export.quantize import IntegerPlan


class Array:
    """A flat list with a shape; outside of it are zeros."""

    def __init__(self, shape, values) -> None:
        self.shape, self.values = tuple(shape), list(values)

    def __getitem__(self, index):
        flat = 0
        for size, place in zip(self.shape, index, strict=True):
            if not 0 <= place < size:
                return 0
            flat = flat * size + place
        return self.values[flat]


def execute(
    plan: IntegerPlan,
    image: Any,
    masks: dict[str, list[int]],
    rescale_masks: dict[str, list[int]],
    k: int,
    rescaling: str,
):
    """Centred integers of every layer for one image (a nested list), PosZero with one k."""
    p = plan.format.prime
    values: dict[str, Array] = {}
    shares: dict[str, Array] = {}  # of elements of a ReLU: its mask; None elsewhere
    for layer in map(layer_to_dict, plan.layers):
        name, sources = layer["name"], [values[source] for source in layer["inputs"]]
        places = list(itertools.product(*map(range, layer["shape"])))
        x = sources[0].values if sources else flatten(image)
        match layer["kind"]:
            case "input" | "reshape":
                out = x
            case "conv2d":
                weight, bias = (plan.tensors[f"{name}.{key}"].tolist() for key in ("weight", "bias"))
                out = [conv(layer, sources[0], weight, place) + bias[place[0]] for place in places]
            case "linear":
                rows, bias = (plan.tensors[f"{name}.{key}"].tolist() for key in ("weight", "bias"))
                out = [
                    sum(a * b for a, b in zip(row, x, strict=True)) + c
                    for row, c in zip(rows, bias, strict=True)
                ]
            case "add":
                out = [a + b for a, b in zip(x, sources[1].values, strict=True)]
            case "relu":
                out = [v if ((v + t) % p) >> k > t >> k else 0 for v, t in zip(x, masks[name], strict=True)]
            case "sum_pool":
                out = [pool(layer, sources[0], place) for place in places]
            case "slice":
                out = [
                    sources[0][move(place, layer["slices"], lambda q, cut: cut[0] + cut[2] * q)]
                    for place in places
                ]
            case "pad":
                out = [
                    sources[0][move(place, layer["widths"], lambda q, width: q - width[0])]
                    for place in places
                ]
            case "rescale" if rescaling == "floor":
                out = [v // 2 ** layer["bits"] for v in x]
            case "rescale" if rescaling == "local":
                bits = layer["bits"]
                out = [
                    (((v + r) % p) >> bits) - (r >> bits) for v, r in zip(x, rescale_masks[name], strict=True)
                ]
            case "rescale":
                moved = shares[layer["inputs"][0]].values
                chosen = zip(moved, rescale_masks[name], strict=True)
                used = [own if mask is None else mask for mask, own in chosen]
                out = [offset(v, r, layer["bits"], p) for v, r in zip(x, used, strict=True)]
            case "shift":
                out = [v * 2 ** layer["bits"] for v in x]
            case kind:
                raise AssertionError(kind)
        assert len(out) == math.prod(layer["shape"]), layer
        values[name] = Array(layer["shape"], [(v + p // 2) % p - p // 2 for v in out])
        first = shares[layer["inputs"][0]] if sources else None
        match layer["kind"]:
            case "relu":
                held = masks[name]
            case "reshape":
                held = first.values
            case "slice":
                held = [
                    first[move(place, layer["slices"], lambda q, cut: cut[0] + cut[2] * q)]
                    for place in places
                ]
            case "pad":
                held = [
                    first[move(place, layer["widths"], lambda q, width: q - width[0])] for place in places
                ]
            case _:
                held = [None] * len(out)
        shares[name] = Array(layer["shape"], held)
    return values


def offset(x, r, bits, p):
    """What is left after both parties have done their parts: see circa_train/rescaling.py."""
    o = p // 4
    u = (x + o + r) % p
    wrapped = 1 if r > p / 2 and u < p / 2 else 0
    return (u + wrapped * p) // 2**bits - o // 2**bits - (r + o % 2**bits) // 2**bits


def conv(layer, x, weight, place):
    o, i, j = place
    group = o // (len(weight) // layer["groups"])
    (di, dj), (pi, pj), (ei, ej) = layer["stride"], layer["padding"], layer["dilation"]
    return sum(
        value * x[group * len(weight[o]) + c, i * di - pi + a * ei, j * dj - pj + b * ej]
        for c, plane in enumerate(weight[o])
        for a, row in enumerate(plane)
        for b, value in enumerate(row)
    )


def pool(layer, x, place):
    c, i, j = place
    (di, dj), (pi, pj) = layer["stride"], layer["padding"]
    window = itertools.product(range(layer["kernel"][0]), range(layer["kernel"][1]))
    return sum(x[c, i * di - pi + a, j * dj - pj + b] for a, b in window)


def move(place, changes, change):
    return tuple(change(q, how) for q, how in zip(place, changes, strict=True))


def flatten(nested):
    return [v for item in nested for v in flatten(item)] if isinstance(nested, list) else [nested]
