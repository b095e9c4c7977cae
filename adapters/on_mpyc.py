"""An exported network on MPyC (pypi.org/project/mpyc): Shamir shares over the export's own field, images and
weights secret, any number of parties of which more than half are honest. ``-M3``: three, on the loopback.

    python adapters/on_mpyc.py FOLDER [images] [what: logits.offset] [-M3]

Expressed is the truncated sign test itself: x + t is opened (t is uniform, so it says nothing), and its upper
bits are compared with the secret bits of t >> k, at two products per bit; dropped bits cost nothing. The
rescalings take one opening and no product. Emulated is the offline phase: party 0 deals the recorded masks
and their bits, not all parties. An exact sign test asks whether t is in [x + t - (p - 1) / 2, x + t).
"""

import functools
from collections import Counter
from importlib.metadata import version

import numpy as np
from mpyc.runtime import mpc  # takes its own options (-M3) off the command line
from running import Laps, main, open_network, reader, report

PARTS = "weight", "bias"
laps = Laps(lambda: sum(other.protocol.nbytes_sent for other in mpc.parties if other.pid != mpc.pid))


def deal(values, field, party=0):
    return mpc.input(field.array(np.asarray(values).astype(int).astype(object)), senders=party)


def above(public, bits, kept, ties):  # [public > b], bits of b highest first; with ties >=. Not kept: equal
    decided = bits * (1 - public) if ties else (1 - bits) * public
    pairs = mpc.np_stack([decided * kept, bits * ((2 * public - 1) * kept) + (1 - public * kept)])
    while (count := pairs.shape[1]) > 1:  # pairs of (decided, equal), joined two by two
        high, low, odd = pairs[:, 0 : count - 1 : 2], pairs[:, 1:count:2], pairs[:, count - 1 :]
        pairs = high * np.array([1, 0]).reshape(2, 1, 1) + low * high[1:2]
        pairs = mpc.np_concatenate([pairs, odd], axis=1) if count % 2 else pairs
    return 1 - pairs[0, 0] if ties else pairs[0, 0]


async def sign(x, at, mask, p, field):  # the gate; exact without a mask
    exact, k = mask is None, np.reshape(0 if mask is None else at["k"], (-1, *[1] * (len(x.shape) - 2)))
    mask = np.random.default_rng().integers(0, p, x.shape) if exact else mask
    places = np.arange(p.bit_length() - 1, k.min() - 1, -1)[:, None]
    kept = (places >= np.broadcast_to(k, x.shape).reshape(-1)).astype(int)
    t, bits = deal(mask, field), deal(mask.reshape(1, -1) >> places & 1, field)
    laps.end(await mpc.gather([t, bits]) and "dealing")
    x_s = (await mpc.output(x + t)).value.astype(np.int64).reshape(1, -1)
    gate = above(x_s >> places & 1, bits, kept, at["mode"] == "negpass")
    if exact:
        least = (x_s - p // 2) % p
        gate = gate - above(least >> places & 1, bits, kept, False) + (least > x_s)[0].astype(int)
    laps.end(await mpc.gather([gate]) and "sign tests")
    return gate.reshape(*x.shape)


async def rescale(x, at, mask, how, p, field):
    bits, o = at["bits"], p // 4 * (how == "offset")
    r, low, a = (deal(each, field) for each in (mask, mask + o % 2**bits >> bits, 2 * mask > p))
    laps.end(await mpc.gather([r, low, a]) and "dealing")
    u = (await mpc.output(x + r + o)).value.astype(np.int64)
    return a * (((u + p >> bits) - (u >> bits)) * (o > 0) * (2 * u < p)) - low + ((u >> bits) - (o >> bits))


def linear(at, xs, tensors):  # a layer without masks
    kind, n, w, b = at["kind"], len(xs[0]), *(tensors.get(f"{at['name']}.{key}") for key in PARTS)
    if kind in ("add", "shift"):
        return xs[0] + xs[1] if kind == "add" else xs[0] * 2 ** at["bits"]
    if kind == "linear":
        return xs[0] @ w.T + b
    index, flat = reader.places(at, [x.shape[1:] for x in xs], tensors), [x.reshape(n, -1) for x in xs]
    values = mpc.np_concatenate([flat[0][:, :1] * 0, *flat], axis=1)[:, index.reshape(-1)]
    if kind != "conv2d":
        values = values.reshape(n, *index.shape)
        return values if kind in reader.MOVES else mpc.np_sum(values, axis=4).transpose(0, 3, 1, 2)
    *size, groups, terms = index.shape
    w = w.reshape(groups, -1, terms).swapaxes(1, 2)
    sums = (values.reshape(-1, groups, terms).swapaxes(0, 1) @ w).swapaxes(0, 1)
    return (sums.reshape(n, *size, -1) + b).transpose(0, 3, 1, 2)


async def run(folder, images=1, what="logits.offset"):
    (manifest, tensors, vectors), (kind, _, how) = open_network(folder, images, what), what.partition(".")
    if how == "floor" or "max_pool" in [at["kind"] for at in manifest["layers"]]:
        raise NotImplementedError(f"{what} of {folder}: this runs .offset and .local, without max_pool")
    await mpc.start()
    p, field, owner = manifest["prime"], mpc.SecFld(modulus=manifest["prime"]), len(mpc.parties) - 1
    masks = reader.masks_of(manifest["layers"], tensors, vectors, how)
    tensors = {key: v if key.endswith(".index") else deal(v, field, owner) for key, v in tensors.items()}
    found, gates = {}, {}  # of what comes from a relu: the value before its gate, and the gate

    @functools.cache
    def value(name):
        return found[name] * gates[name] if name in gates else found[name]

    for at in manifest["layers"]:
        name, sources, mask = at["name"], at["inputs"], masks[at["name"]]
        laps.end("start")
        if at["kind"] == "input":
            found[name] = deal(vectors["inputs"], field)
        elif at["kind"] == "relu":
            found[name] = value(sources[0])
            gates[name] = await sign(found[name], at, None if kind == "exact" else mask, p, field)
        elif at["kind"] == "rescale":  # under offset first truncated, then multiplied by the gate
            x = found[sources[0]] if how == "offset" else value(sources[0])
            found[name] = await rescale(x, at, mask, how, p, field)
            gates |= {name: gates[sources[0]]} if how == "offset" and sources[0] in gates else {}
        elif at["kind"] in reader.MOVES and gates.keys() & sources:
            found[name] = linear(at, [found[each] for each in sources], tensors)
            gates[name] = linear(at, [gates.get(each, found[each] * 0 + 1) for each in sources], tensors)
        else:
            found[name] = linear(at, [value(each) for each in sources], tensors)
        laps.end(await mpc.gather([found[name]]) and ("rescalings" if at["kind"] == "rescale" else "linear"))
    logits = (await mpc.output(value(manifest["output"]["layer"]))).value
    sent = sum(map(Counter, await mpc.transfer(dict(laps.bytes))), Counter())
    await mpc.shutdown()
    wanted, runtime = vectors[what] % p, f"MPyC {version('mpyc')}, Shamir"
    return report(runtime, len(mpc.parties), what, logits, wanted, manifest, laps.seconds, sent)


if __name__ == "__main__":
    main(lambda *arguments: mpc.run(run(*arguments)))
