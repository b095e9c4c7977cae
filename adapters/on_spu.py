"""An exported network on SPU (pypi.org/project/spu): additive shares modulo 2^64, images and weights secret.

    python adapters/on_spu.py FOLDER [images] [what: exact.floor] [protocol: SEMI2K] [parties: 2]

SPU needs a Python before 3.12 and numpy before 2: ``make spu`` makes an environment of its own. SEMI2K shares
among two or more parties, and its triples come from a dealer; CHEETAH is a protocol of two parties alone,
with lattices and oblivious transfer. SPU expresses exact sign tests and the exact shift (``floor``).
Truncated signs, bit windows and the rescalings ``offset`` and ``local`` are emulated, from the recorded masks
as secret inputs: a program on SPU cannot look at its shares. The ring computes what Z_p does while nothing
leaves the field; a run in which the manifest counts overflows is refused.
"""

import re
from importlib.metadata import version

import jax
import numpy as np
import spu.utils.simulation as simulation
from jax import lax
from jax import numpy as jnp
from running import Laps, main, open_network, printed, reader, report
from spu import libspu

jax.config.update("jax_enable_x64", True)


class Patient(libspu.link.Desc):  # the simulator's parties give up after 30 s, too soon on a busy machine
    def __init__(self):
        super().__init__()
        self.recv_timeout_ms = 1_800_000


libspu.link.Desc = Patient


def into_field(v, p):  # of -p <= v < 2p
    return v + p * ((v < 0).astype(int) - (v >= p).astype(int))


def gate(x, at, mask, p):
    if mask is None:
        return x > 0
    if at["mode"] == "bit_window":
        return reader.sign(x, mask, at, None, 0)
    k = np.reshape(at.get("k", 0), (-1, *[1] * (x.ndim - 2)))
    shifted = into_field(x + mask, p) >> k, mask >> k
    return shifted[0] >= shifted[1] if at["mode"] == "negpass" else shifted[0] > shifted[1]


def rescale(x, at, mask, p, how):
    if how == "floor":
        return x >> at["bits"]
    bits, o = at["bits"], p // 4 * (how == "offset")
    u = into_field(x + o + mask, p)
    wrap = (2 * mask > p) & (2 * u < p) & (o > 0)
    return (u + jnp.where(wrap, p, 0) >> bits) - (o >> bits) - (mask + o % 2**bits >> bits)


def layer(at, xs, tensors):
    kind, x, w, b = at["kind"], xs[0], *(tensors.get(f"{at['name']}.{key}") for key in ("weight", "bias"))
    if kind in reader.MOVES:
        index = reader.places(at, [each.shape[1:] for each in xs], tensors)
        flat = [jnp.zeros((len(x), 1), int), *(each.reshape(len(x), -1) for each in xs)]
        return jnp.concatenate(flat, 1)[:, index.reshape(-1)].reshape(len(x), *index.shape)
    if kind in ("add", "shift", "linear"):
        return x @ w.T + b if w is not None else x << at["bits"] if len(xs) == 1 else x + xs[1]
    pads = [(pad, pad) for pad in at["padding"]]
    if kind == "conv2d":
        parts = zip(jnp.split(x, at["groups"], 1), jnp.split(w, at["groups"], 0), strict=True)
        options = {"rhs_dilation": at["dilation"], "dimension_numbers": ("NCHW", "OIHW", "NCHW")}
        maps = [lax.conv_general_dilated(v, u, at["stride"], pads, **options) for v, u in parts]
        return jnp.concatenate(maps, 1) + b.reshape(-1, 1, 1)
    start, join = (0, lax.add) if kind == "sum_pool" else (-(2**40), lax.max)
    window = (1, 1, *at["kernel"]), (1, 1, *at["stride"]), [(0, 0), (0, 0), *pads]
    return lax.reduce_window(x, np.int64(start), join, *window)


def network(manifest, how, index):
    def run(inputs, tensors, masks):
        values, p = {}, manifest["prime"]
        for at in manifest["layers"]:
            xs, mask = [values[name] for name in at["inputs"]] or [inputs], masks.get(at["name"])
            if at["kind"] == "relu":
                values[at["name"]] = jnp.where(gate(xs[0], at, mask, p), xs[0], 0)
            elif at["kind"] == "rescale":
                values[at["name"]] = rescale(xs[0], at, mask, p, how)
            else:
                values[at["name"]] = xs[0] if at["kind"] == "input" else layer(at, xs, tensors | index)
        return values[manifest["output"]["layer"]]

    return run


def run(folder, images=2, what="exact.floor", protocol="SEMI2K", parties=2):
    (manifest, tensors, vectors), (kind, _, how) = open_network(folder, images, what), what.partition(".")
    if manifest["vectors"].get("overflows", {}).get(what) != 0:
        raise NotImplementedError(f"{what} of {folder}: by the manifest, values may leave the field")
    needed = [["relu"], []][kind == "exact"] + [["rescale"], []][how == "floor"]
    found = reader.masks_of(manifest["layers"], tensors, vectors, how)
    masks = {at["name"]: found[at["name"]] for at in manifest["layers"] if at["kind"] in needed}
    masks = {name: mask for name, mask in masks.items() if mask is not None}
    index = {key: value for key, value in tensors.items() if key.endswith(".index")}
    config = libspu.RuntimeConfig(getattr(libspu.ProtocolKind, protocol), libspu.FieldType.FM64)
    config.enable_pphlo_profile, laps, lines = True, Laps(), []
    on_spu = simulation.sim_jax(simulation.Simulator(int(parties), config), network(manifest, how, index))
    secret = {key: value for key, value in tensors.items() if key not in index}
    with printed(lines):  # SPU's profile
        logits = on_spu(vectors["inputs"], secret, masks)
    laps.end("all, compilation included")
    pattern = r"pphlo\.([^,]+), executed \d+ times, duration ([^s]+)s, send bytes (\d+) recv bytes (\d+)"
    found = [match.groups() for match in re.finditer(pattern, "\n".join(lines))]
    seconds = dict(laps.seconds) | {name: float(spent) for name, spent, _, _ in found}
    sent = {name: int(out) + int(back) for name, _, out, back in found if int(out) + int(back)}
    runtime = f"SPU {version('spu')}, {protocol}"
    return report(runtime, int(parties), what, logits, vectors[what], manifest, seconds, sent)


if __name__ == "__main__":
    main(run)
