"""Private inference of a whole network between two processes: seconds, bytes and memory of one image.

The network is a fresh one with its BatchNorm statistics taken from a batch: what a protocol takes does not
depend on what was learned. Seconds are those of the client, from handing its masked image over to its logits.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from circa_train.benchmark.timing import Spread
from circa_train.export import to_integers
from circa_train.export.manifest import describe
from circa_train.fault import TruncatedSign
from circa_train.nn import build_model
from circa_train.pi import Architecture, LineSpeed, Network, Trial, Walk, run_trial

#: Of a local network: a gigabit per second, half a millisecond there and back.
LAN = LineSpeed(1e9, 0.0005)

#: What was reached by a prototype and is asked for here: seconds online by k, on the machine and over a LAN.
ONLINE_SECONDS = {12: (0.6, 1.1), 17: (0.5, 0.9)}


@dataclass(frozen=True)
class Figure:
    """A number with its quartiles, and the most that it is to be."""

    name: str
    against: str
    value: Spread
    bound: float
    detail: dict[str, Any]


def integer_network(name: str, k: int, *, image_size: int = 32, **options: Any) -> tuple[Network, np.ndarray]:
    """A network as a server has it, and one integer input."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn((16, 3, image_size, image_size), generator=generator)
    model = build_model(name, num_classes=10, image_size=image_size, seed=0, **options)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.train()(images)
        # how far rounding moves the answers of a fresh network says nothing about a protocol
        conversion = to_integers(model.eval(), TruncatedSign(k), [images], largest_error=math.inf)
    data = {"name": "noise", "mean": [0.0] * 3, "std": [1.0] * 3}
    tensors = {key: value.numpy().astype(np.int64) for key, value in conversion.network.plan.tensors.items()}
    architecture = Architecture.from_manifest(describe(conversion, data, None, None), tensors)
    inputs = conversion.network.quantize(images[:1]).numpy()
    return Network(architecture, tensors, "", {}), inputs


def two_party_figures(name: str, *, ks: Sequence[int], repeats: int, everything: bool) -> Iterator[Figure]:
    """The figures of one network at every k: online, bytes, offline, and memory.

    Args:
        name: of the network, for images of 32 x 32.
        ks: of those in :data:`ONLINE_SECONDS`.
        repeats: inferences that are timed.
        everything: also over an emulated LAN and, if the extra is installed, with homomorphic encryption.
    """
    for k in ks:
        here, lan = ONLINE_SECONDS[k]
        network, x = integer_network(name, k)
        places = [("loopback", None, here), *([("1 Gbit/s, 0.5 ms", LAN, lan)] if everything else [])]
        for place, speed, bound in places:
            found = run_trial(network, x, repeats, speed=speed)
            about = f"{name}, k = {k}"
            yield Figure(
                f"two-party online, {about}, {place}, s", "Delphi: 7.04 s", Spread.of(found.online), bound,
                {"online_processor_seconds": found.online_processor},
            )  # fmt: skip
            if speed is None:
                yield from _of_trial(found, network, about, k)
                if k == 12 and everything:
                    yield from _homomorphic(network, x, about)


def _of_trial(found: Trial, network: Network, about: str, k: int) -> Iterator[Figure]:
    relus = sum(
        group.count for trip in Walk(network.architecture).trips for group in trip.groups if group.circuit
    )
    compared = network.architecture.prime.bit_length() - k
    beside = found.received / relus - 16 * compared
    yield Figure(
        f"bytes down online per ReLU beside labels, {about}", "16 per compared bit", _exact(beside), 28,
        {"received": found.received, "sent": found.sent, "relus": relus},
    )  # fmt: skip
    yield Figure(
        f"processor s offline of both parties, {about}, dealer", "-", _exact(found.offline_processor), 2,
        {"seconds": list(found.offline)},
    )  # fmt: skip
    if k == 12:
        yield Figure(f"client's memory, {about}, MiB", "-", _exact(found.client_peak_mib), 300, {})


def _homomorphic(network: Network, x: np.ndarray, about: str) -> Iterator[Figure]:
    try:
        import seal  # noqa: F401
    except ImportError:
        return
    found = run_trial(network, x, 1, offline="homomorphic")
    yield Figure(
        f"processor s offline of both parties, {about}, homomorphic", "-", _exact(found.offline_processor), 4,
        {"seconds": list(found.offline)},
    )  # fmt: skip


def _exact(value: float) -> Spread:
    return Spread(value, value, value)
