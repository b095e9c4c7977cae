"""Rescaled values of an export folder's test vectors, as the executor, the numpy reader and the float
simulator have them: what :mod:`circa_train.verify.rescaling` compares with the law and with two parties'
messages.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from circa_train.export import reader
from circa_train.export.integer import IntegerNetwork, SiteSigns, Step
from circa_train.export.layers import Rescale, layer_to_dict
from circa_train.export.vectors import DRAW, SEED
from circa_train.fault import TruncatedSign
from circa_train.nn import RescaledReLU
from circa_train.verify.rescaling import RescaleSample, by_truncation


def rescale_samples(network: IntegerNetwork, inputs: Tensor, count: int) -> Iterator[RescaleSample]:
    """Up to ``count`` values of every rescaling, chosen at random, of a run under ``offset``.

    Args:
        network: of the folder; its own rescaling and draws play no part.
        inputs: int64 (N, *input shape), the vectors' inputs, whose masks are those of the vectors.
        count: values per layer.

    Yields:
        Samples layer by layer; several for a layer whose sign test drops several numbers of bits.
    """
    run, again = (
        IntegerNetwork(network.plan, network.specs, seed=SEED, rescaling="offset", overflow="wrap")
        for _ in range(2)
    )
    signs: dict[str, SiteSigns] = {}
    tests = run.sign_tests(inputs)
    for step in again.steps(inputs):
        if step.layer.kind == "relu":
            signs[step.layer.name] = next(tests)
        elif isinstance(step.layer, Rescale):
            test = signs.get(step.layer.inputs[0])
            if test is not None and not isinstance(test.spec, TruncatedSign):
                test = None
            yield from _samples(network, step, step.layer, test, count)


def _samples(
    network: IntegerNetwork, step: Step, layer: Rescale, test: SiteSigns | None, count: int
) -> list[RescaleSample]:
    assert step.mask is not None
    (source,), prime = step.inputs, network.prime
    total = source.numel()
    random = np.random.default_rng([SEED, layer.site])
    chosen = np.sort(random.choice(total, min(count, total), replace=False))

    def pick(values: Tensor) -> NDArray[np.int64]:
        return values.reshape(-1)[torch.from_numpy(chosen)].long().numpy()

    mask = pick(step.mask)
    read = reader.compute(layer_to_dict(layer), [pick(source)], {}, mask, prime, "offset")
    found = {"executor": pick(step.value), "reader": read}
    x, gate, spec = pick(source), np.ones(len(chosen), dtype=np.int64), None
    k = np.zeros(len(chosen), dtype=np.int64)
    if test is not None:
        assert isinstance(test.spec, TruncatedSign)
        x, gate, spec = pick(test.x), pick(test.gate), test.spec
        found["simulator"] = pick(_simulated(network, layer, test))
        by_channel = np.array(spec.k) if isinstance(spec.k, tuple) else np.full(1, spec.k)
        inner = math.prod(test.x.shape[2:])
        channels = chosen // inner % test.x.shape[1] if len(by_channel) > 1 else np.zeros_like(chosen)
        k = by_channel[channels]
    site = None if test is None else test.site
    sample = RescaleSample(layer.name, site, spec, layer.bits, prime, chosen, x, mask, gate, found)
    return by_truncation(sample, k)


def _simulated(network: IntegerNetwork, layer: Rescale, test: SiteSigns) -> Tensor:
    """The float simulator's result on the very values, back as integers."""
    frac_bits = network.plan.scales[test.site].frac_bits
    site = RescaledReLU(
        test.spec, bits=layer.bits, frac_bits=frac_bits, seed=SEED, site=test.index, overflow="wrap"
    )
    site.set_draw(DRAW)
    y = site(test.x.double() * 2.0**-frac_bits)
    return torch.round(y * 2.0 ** (frac_bits - layer.bits)).long()
