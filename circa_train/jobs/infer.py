"""The client of private inferences: the work of ``scripts/infer.py``, and what its ``result.json`` holds."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from circa_train.gc import relu_cost
from circa_train.gc.circuits import ReluCircuit
from circa_train.gc.protocol import NobodyListens, Transport, connect
from circa_train.jobs.job import Job
from circa_train.jobs.serve import address_of, check_offline, stores_of
from circa_train.jobs.two_party import InferConfig, TlsConfig
from circa_train.pi import (
    Architecture,
    Client,
    Group,
    LineSpeed,
    Network,
    Stores,
    Traffic,
    Walk,
    client_tls,
    emulated,
    load_network,
    logits_under,
    offline_bytes,
    online_bytes,
    peak_mib,
    warm_up,
)
from circa_train.text import aligned

#: Of the phases that are shown, and what they are.
PHASES = {"dealer": "dealer's shares", "offline": "preparation", "online": "inference"}


def work(job: Job) -> dict[str, Any]:
    """Prepare and infer batch by batch; print the table; return logits, bytes and seconds."""
    config: InferConfig = job.cfg
    check_offline(config.pi)
    if config.batch_size < 1:
        raise ValueError(f"batch_size = {config.batch_size}: must be at least 1")
    network = None if config.compare is None else load_network(config.compare)
    stores = Stores(stores_of(config.pi, config.run.root), "client")
    with ExitStack() as stack:
        client = Client(
            _connected(config, stack),
            stores,
            offline=config.pi.offline,  # type: ignore[arg-type]
            architecture=None if network is None else network.architecture,
            digest=_digest(config.architecture),
            dealer=None if config.pi.dealer is None else address_of(config.pi.dealer),
            host=config.host,
            timeout=config.pi.timeout,
        )
        try:
            warm_up(client.architecture.prime)
            record = _infer_all(job, client, network)
            client.end()
        finally:
            client.line.close()
    return record


def _digest(text: str | None) -> bytes | None:
    """ValueError unless it is what scripts/serve.py prints."""
    if text is None:
        return None
    if not re.fullmatch("[0-9a-f]{64}", text):
        raise ValueError(
            f"architecture = {text!r} is no digest: 64 hexadecimal digits, as serve.py prints them"
        )
    return bytes.fromhex(text)


def _connected(config: InferConfig, stack: ExitStack) -> Transport:
    """The connection, tried again for ``wait`` seconds while nobody listens."""
    speed = LineSpeed(config.emulate.bandwidth, config.emulate.latency)
    tls, deadline = _tls(config.tls), time.monotonic() + config.wait
    while True:
        try:
            address = stack.enter_context(emulated((config.host, config.port), speed))
            return connect(address, config.pi.timeout, tls=tls, server_name=config.host)
        except NobodyListens as error:
            stack.close()
            if time.monotonic() >= deadline:
                raise NobodyListens(
                    f"{error}: start scripts/serve.py there first, it says 'serving ...' when it is ready; "
                    "or give wait=60, and the client waits up to 60 seconds for it"
                ) from error
            time.sleep(0.2)


def _infer_all(job: Job, client: Client, network: Network | None) -> dict[str, Any]:
    config: InferConfig = job.cfg
    pictures = read_pictures(config.images, client.architecture)[: config.limit]
    if not len(pictures):
        raise ValueError(f"{config.images} holds no image")
    job.begin()
    expected, logits, agree = Traffic(), [], 0
    walls: list[dict[str, float]] = []
    for start in range(0, len(pictures), config.batch_size):
        batch = client.quantize(pictures[start : start + config.batch_size])
        begun = time.perf_counter()
        number = client.prepare(len(batch), keep_masks=network is not None)
        prepared = time.perf_counter()
        found = client.infer(number, batch)
        done = time.perf_counter()
        logits.append(found)
        walls.append({"images": len(batch), "offline": prepared - begun, "online": done - prepared})
        expected.add(offline_bytes(client.walk, len(batch), config.pi.offline))  # type: ignore[arg-type]
        expected.add(online_bytes(client.walk, len(batch)))
        said = f"images {start} to {start + len(batch) - 1}: {', '.join(_classes(client, found))}"
        if network is not None:
            wanted = logits_under(network.architecture, network.tensors, batch, client.masks)
            same = (wanted == found).reshape(len(batch), -1).all(1)
            agree += int(same.sum())
            said += f"; {int(same.sum())} of {len(batch)} logits equal the definition's"
        job.log.info("%s (offline %.2f s, online %.2f s)", said, prepared - begun, done - prepared)
    whole = np.concatenate(logits)
    _check_bytes(client.line.traffic, expected)
    if network is not None and agree != len(whole):
        raise ValueError(f"logits of {len(whole) - agree} of {len(whole)} images are not the definition's")
    rows = table_rows(client, len(whole))
    print(aligned(rows, left=2))
    return {
        "architecture": client.architecture.digest.hex(),
        "parameters": client.greeting.parameters.hex(),
        "images": len(whole),
        "logits": client.to_real(whole).tolist(),
        "classes": whole.reshape(len(whole), -1).argmax(1).tolist(),
        "compared": None if network is None else {"images": len(whole), "equal": agree},
        "relus": sum(group.count for group, _ in _sign_tests(client.walk)),
        "and_gates": sum(
            group.count * relu_cost(circuit).and_gates for group, circuit in _sign_tests(client.walk)
        ),
        "online_seconds": _spread([wall["online"] / wall["images"] for wall in walls]),
        "round_trips": len(client.walk.trips) + 1,
        "batches": walls,
        "bytes": {
            phase: dict(zip(("sent", "received"), client.line.traffic.of(phase), strict=True))
            for phase in ("setup", *PHASES)
        },
        "bytes_equal_the_model": True,
        "seconds": _by_phase(client.line.seconds),
        "layers": [
            {"phase": phase, "place": place, "seconds": client.line.seconds[phase, place],
             "sent": client.line.traffic.sent[phase, place],
             "received": client.line.traffic.received[phase, place]}
            for phase, place in _places(client)
        ],
        "emulate": {"bandwidth": config.emulate.bandwidth, "latency": config.emulate.latency},
        "peak_mib": peak_mib(),
    }  # fmt: skip


def read_pictures(path: str, architecture: Architecture) -> NDArray[np.uint8]:
    """uint8 (n, C, H, W), from what ``images`` names.

    Raises:
        ValueError: if it holds something else, or pictures of another size than the network takes.
    """
    place, shape = Path(path), architecture.input_shape
    if (place / "SHA256SUMS").is_file():
        found = load_network(place).vectors["images"]
    elif place.suffix == ".npy":
        found = np.load(place, allow_pickle=False)
    elif place.is_dir():
        files = sorted(file for file in place.iterdir() if file.is_file() and file.name[0] != ".")
        found = np.stack([_picture(file, shape[0]) for file in files]) if files else np.empty((0, *shape))
    else:
        found = _picture(place, shape[0])[None]
    if found.dtype != np.uint8 or found.shape[1:] != shape:
        raise ValueError(
            f"{path} holds {found.dtype} of shape {found.shape}; the network takes uint8 images of shape "
            f"{shape} (channels, height, width): resize them first"
        )
    return np.ascontiguousarray(found)


def _picture(file: Path, channels: int) -> NDArray[np.uint8]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as picture:
            pixels = np.asarray(picture.convert("L" if channels == 1 else "RGB"))
    except UnidentifiedImageError as error:
        raise ValueError(f"{file} is no picture") from error
    return pixels[None] if channels == 1 else np.moveaxis(pixels, 2, 0)


def table_rows(client: Client, images: int) -> list[list[str]]:
    """The table: seconds and bytes per image, by phase and place."""
    rows = [["phase", "layer or trip", "ms", "bytes sent", "bytes received"]]
    seconds, traffic = client.line.seconds, client.line.traffic
    for phase, place in _places(client):
        sent, received = traffic.sent[phase, place], traffic.received[phase, place]
        rows.append([
            PHASES[phase], place or "-", f"{1000 * seconds[phase, place] / images:.1f}",
            f"{sent / images:,.0f}", f"{received / images:,.0f}",
        ])  # fmt: skip
    totals = _by_phase(seconds)
    for phase, name in PHASES.items():
        sent, received = traffic.of(phase)
        if sent or received:
            rows.append([
                name, "all", f"{1000 * totals.get(phase, 0.0) / images:.1f}", f"{sent / images:,.0f}",
                f"{received / images:,.0f}",
            ])  # fmt: skip
    return rows


def _places(client: Client) -> list[tuple[str, str]]:
    traffic = client.line.traffic
    keys = list(dict.fromkeys([*client.line.seconds, *traffic.sent, *traffic.received]))
    return sorted((key for key in keys if key[0] in PHASES), key=lambda key: list(PHASES).index(key[0]))


def _by_phase(seconds: Mapping[tuple[str, str], float]) -> dict[str, float]:
    found: dict[str, float] = {}
    for (phase, _), value in seconds.items():
        found[phase] = found.get(phase, 0.0) + value
    return found


def _sign_tests(walk: Walk) -> list[tuple[Group, ReluCircuit]]:
    groups = [group for trip in walk.trips for group in trip.groups]
    return [(group, group.circuit) for group in groups if group.circuit is not None]


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    """Median, least and most of the batches' seconds per image; the first warms up, and counts only alone."""
    counted = seconds[1:] or seconds
    return {"median": statistics.median(counted), "low": min(counted), "high": max(counted)}


def _classes(client: Client, logits: NDArray[np.int64]) -> list[str]:
    names = client.architecture.class_names
    found = logits.reshape(len(logits), -1).argmax(1).tolist()
    return [names[index] if names else str(index) for index in found]


def _check_bytes(found: Traffic, expected: Traffic) -> None:
    """RuntimeError if what passed in a phase is not what the accounting says, to the byte."""
    for phase in PHASES:
        if found.of(phase) != expected.of(phase):
            raise RuntimeError(
                f"{phase}: {found.of(phase)} bytes were sent and received, the accounting says "
                f"{expected.of(phase)}"
            )


def _tls(config: TlsConfig) -> Any:
    if config.certificate is None and config.key is None and config.authority is None:
        return None
    if config.authority is None:
        raise ValueError("tls.authority is missing: whose signature proves who the server is?")
    return client_tls(config.authority, config.certificate, config.key)
