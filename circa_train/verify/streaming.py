"""Every sign test of a set of images, batch by batch and site by site, through the garbled circuit.

The network runs as it always does, and at each verified site stops: the site's own answer (the simulator's)
is compared, piece by piece and on all cores, as :mod:`circa_train.verify.piece` says, and what goes on
through the network is written by the circuit: x where the garbled circuit's bit is 1, else 0. So the
predictions that come out, and the accuracy that is counted from them, are the circuit's, literally. Where
nothing disagrees they are the evaluation's as well, image by image, for a batch of the same size.

Threads: torch computes the linear layers on its own; at a site as many threads as torch has take piece after
piece. The compiled passes and torch release the interpreter's lock. The first thread to finish takes the next
piece, so nothing waits but the last. Memory: the activations of a batch, which an evaluation needs as well,
and a piece per thread.

A float network rounds differently on other machines, and then other values enter its sites: digests are of
what was compared here. An integer network gives the same digests everywhere.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from circa_train.bars import bar
from circa_train.evaluation import FIRST_DRAW, kept_draws
from circa_train.fixed_point import to_fixed
from circa_train.nn import StochasticReLU, evaluating, raise_pending, set_draw, stochastic_relus
from circa_train.verify.ledger import Ledger
from circa_train.verify.piece import Bench, Site, Work, compare_piece, merged
from circa_train.verify.sampling import let_through
from circa_train.verify.tally import SiteTally

#: What a forward takes: inputs, labels (None where there are none), the number of the first image.
Batch = tuple[Tensor, Tensor | None, int]


@dataclass(frozen=True)
class EveryReport:
    """What came of all batches.

    Attributes:
        tallies: by site.
        predictions: int64 (images,), the class that the circuit's network gave each image.
        labels: int64 (images,), or None.
        seconds: by phase, of the batches as they were computed (also in an earlier attempt): processor
            seconds of the threads at the sites by phase, ``network`` the time of the main thread outside
            the sites, ``wall`` all of a batch, and ``processor`` that of the whole process.
        aes_calls: of labels, garbling and evaluating.
    """

    tallies: Mapping[str, SiteTally]
    predictions: NDArray[np.int64]
    labels: NDArray[np.int64] | None
    seconds: Mapping[str, float]
    aes_calls: int

    @property
    def compared(self) -> int:
        return sum(tally.compared for tally in self.tallies.values())

    @property
    def mismatches(self) -> int:
        return sum(sum(tally.mismatches.values()) for tally in self.tallies.values())

    @property
    def accuracy(self) -> float | None:
        """Share of the images that the circuit's network classifies right; None without labels."""
        return None if self.labels is None else float((self.predictions == self.labels).mean())


def verify_every(
    network: nn.Module,
    batches: Iterable[Batch],
    sites: Sequence[str],
    *,
    images: int,
    ledger: Ledger | None = None,
    draw: int = FIRST_DRAW,
    forward: Callable[[Tensor], Tensor] | None = None,
    workers: int | None = None,
    progress: bool = False,
) -> EveryReport:
    """Compare every sign test that ``network`` makes on ``batches`` at ``sites``.

    Args:
        network: with stochastic sites, on real numbers or on integers.
        batches: in order, each time the same.
        sites: names of sites whose sign test has a circuit.
        images: how many there are in all, for the estimate of the remaining time.
        ledger: where finished batches are kept and found; None keeps nothing.
        draw: number of the draw.
        forward: inputs to logits; the network itself by default.
        workers: threads at the sites; as many as torch has by default.
        progress: show a bar on a terminal, and elsewhere log a line now and then.

    Raises:
        ValueError: if there is no site or no image; and what the network's sites raise.
    """
    if not sites or images < 1:
        raise ValueError(f"{len(sites)} sites and {images} images: nothing to verify")
    ledger = ledger or Ledger(None, "")
    run = forward or network
    total: dict[str, Any] = {"sites": {name: SiteTally() for name in sites}, "seconds": {}, "aes_calls": 0}
    predictions: list[list[int]] = []
    labels: list[Tensor] = []
    with (
        kept_draws(network), evaluating(network),
        _stopping_at(network, sites, workers or torch.get_num_threads()) as stops,
        bar(images, "verifying", "images", shown=progress) as shown,
    ):  # fmt: skip
        for number, (inputs, given, first) in enumerate(batches):
            key = _digest(inputs, given, first, draw)
            found = ledger.find(number, key)
            if found is None:
                set_draw(network, draw, first)
                found = stops.batch(partial(run, inputs))
                raise_pending(network)
                ledger.write(number, key, found)
            elif progress:
                shown.initial += len(inputs)  # the estimate goes by what is computed now
            for name in sites:
                total["sites"][name] += SiteTally.from_dict(found["sites"][name])
            for phase, seconds in found["seconds"].items():
                total["seconds"][phase] = total["seconds"].get(phase, 0.0) + seconds
            total["aes_calls"] += found["aes_calls"]
            predictions.append(found["predictions"])
            if given is not None:
                labels.append(given.cpu())
            shown.update(len(inputs))
    return EveryReport(
        total["sites"],
        np.concatenate([np.array(part, dtype=np.int64) for part in predictions]),
        torch.cat(labels).numpy() if labels else None,
        total["seconds"],
        total["aes_calls"],
    )


@dataclass
class _Stops:
    """The sites of a network at which it stops, and the threads that compare what is there."""

    relus: Mapping[str, StochasticReLU]
    pool: ThreadPoolExecutor
    benches: SimpleQueue[Bench]
    everyone: Sequence[Bench]
    found: dict[str, SiteTally] = field(default_factory=dict)
    at_sites: float = 0.0

    def batch(self, run: Callable[[], Tensor]) -> dict[str, Any]:
        """Run the network on a batch; what there is to be written down, as plain data."""
        self.found, self.at_sites = {}, 0.0
        for bench in self.everyone:
            bench.work = Work()
        wall, processor = time.perf_counter(), time.process_time()
        predictions = run().argmax(1).tolist()
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        missing = [name for name in self.relus if name not in self.found]
        if missing:
            raise ValueError(f"the sites {', '.join(missing)} did not run on this input")
        work = merged([bench.work for bench in self.everyone])
        return {
            "sites": {name: tally.to_dict() for name, tally in self.found.items()},
            "predictions": predictions,
            "seconds": {
                **work.seconds, "network": wall - self.at_sites, "wall": wall, "processor": processor,
            },
            "aes_calls": work.aes_calls,
        }  # fmt: skip

    def stop(self, relu: StochasticReLU, inputs: tuple[Any, ...], y: Tensor) -> Tensor:
        """The forward hook: compare, and write the circuit's outcome over ``y``, which nobody has seen."""
        started = time.perf_counter()
        z = inputs[0]
        following, first_image = relu.address.tolist()
        channels = z.shape[1] if z.dim() > 1 else 1
        site = Site(relu.name, relu.site, relu.seed, relu.spec, z[0].numel(), channels)
        assert site.circuits  # made here, not by several threads at once
        flat_z, flat_y = (tensor.detach().cpu().contiguous().reshape(-1) for tensor in (z, y))
        offset, draw = first_image * site.relus, following - 1

        def compare(piece: tuple[int, int]) -> SiteTally:
            start, count = piece
            here, out = flat_z[start : start + count], flat_y[start : start + count]
            bench = self.benches.get()
            try:
                return _compare(site, relu, here, out, offset + start, draw, bench)
            finally:
                self.benches.put(bench)

        before = self.found.get(relu.name, SiteTally())
        self.found[relu.name] = sum(self.pool.map(compare, site.pieces(len(z))), before)
        if flat_y.data_ptr() != y.data_ptr():
            y.copy_(flat_y.view(y.shape))
        self.at_sites += time.perf_counter() - started
        return y


def _compare(
    site: Site, relu: StochasticReLU, z: Tensor, y: Tensor, first: int, draw: int, bench: Bench
) -> SiteTally:
    """Compare a piece, and let the circuit's answers decide what of ``z`` stands in ``y``."""
    bench.work.start()
    applied = let_through(z, y).numpy()
    real = z.is_floating_point()
    x = _fixed(site, relu, z, first) if real else z
    bench.work.lap("simulator")
    gates, tally = compare_piece(site, x.numpy(), applied, first, draw, bench, told=real)
    bench.work.start()
    y.copy_(torch.where(torch.from_numpy(gates), z, 0))
    bench.work.lap("output")
    return tally


def _fixed(site: Site, relu: StochasticReLU, z: Tensor, first: int) -> Tensor:
    """x of the elements from number ``first`` of the draw on."""
    channels = None
    if isinstance(relu.frac_bits, tuple):
        channels = torch.from_numpy(site.channels_of(first, len(z)))
    return to_fixed(z, relu.frac_bits, relu.spec.prime, relu.settings.overflow, channels)[0]


@contextmanager
def _stopping_at(network: nn.Module, sites: Sequence[str], workers: int) -> Iterator[_Stops]:
    """While open, the network stops at ``sites``."""
    relus = {name: stochastic_relus(network)[name] for name in sites}
    benches, everyone = SimpleQueue[Bench](), [Bench() for _ in range(workers)]
    for bench in everyone:
        benches.put(bench)
    with ThreadPoolExecutor(workers, "verify") as pool:
        stops = _Stops(relus, pool, benches, everyone)
        handles = [relu.register_forward_hook(stops.stop) for relu in relus.values()]
        try:
            yield stops
        finally:
            for handle in handles:
                handle.remove()
            pool.shutdown(cancel_futures=True)


def _digest(inputs: Tensor, labels: Tensor | None, first: int, draw: int) -> str:
    digest = hashlib.sha256(repr((tuple(inputs.shape), str(inputs.dtype), first, draw)).encode())
    for tensor in (inputs, labels):
        if tensor is not None:
            digest.update(tensor.cpu().contiguous().numpy().data)
    return digest.hexdigest()
