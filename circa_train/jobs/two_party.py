"""What both parties of a private inference, and their dealer, can be told: as
:mod:`circa_train.jobs.settings` has it for all other jobs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from circa_train.jobs.mirror import MISSING
from circa_train.jobs.settings import RunConfig, TrackerConfig


@dataclass
class TwoPartyConfig:
    """What both parties of a private inference must agree on, and where each keeps what is prepared.

    ``offline`` prepares linear layers by a ``dealer`` or by ``homomorphic`` encryption. ``dealer`` is its
    address, host:port; null is one that the server starts beside itself, and that is no secret to it.
    ``stores`` is the folder of preparations; null is one in ``run.root``. ``timeout`` is of one message.
    """

    offline: str = "dealer"
    dealer: str | None = None
    stores: str | None = None
    timeout: float = 60.0


@dataclass
class TlsConfig:
    """TLS on the line. ``certificate`` and ``key`` are this party's, ``authority`` signed the other's: PEM
    files.
    """

    certificate: str | None = None
    key: str | None = None
    authority: str | None = None


@dataclass
class ServeConfig:
    """The server of private inferences; ``connections`` ends it after so many (null: never)."""

    export: str = MISSING
    host: str = "127.0.0.1"
    port: int = 7766
    pi: TwoPartyConfig = field(default_factory=TwoPartyConfig)
    tls: TlsConfig = field(default_factory=TlsConfig)
    connections: int | None = None
    run: RunConfig = field(default_factory=RunConfig)


@dataclass
class DealConfig:
    """A dealer for a network."""

    export: str = MISSING
    host: str = "127.0.0.1"
    port: int = 7767
    run: RunConfig = field(default_factory=RunConfig)


@dataclass
class EmulateConfig:
    """The line to the server as it is to be: ``bandwidth`` in bits per second (null: no limit), ``latency``
    of a round trip in seconds.
    """

    bandwidth: float | None = None
    latency: float = 0.0


@dataclass
class InferConfig:
    """Private inferences.

    ``images`` is a picture, a folder of pictures, a .npy file of uint8 (n, C, H, W), or an export folder,
    whose test images are taken; the first ``limit`` (null: all), ``batch_size`` at a time. ``architecture``
    insists on the network of that digest. ``compare`` is an export folder: logits are compared with what it
    gives under the masks of this party. ``wait`` is how many seconds to wait for a server that does not
    listen yet.
    """

    images: str = MISSING
    host: str = "127.0.0.1"
    port: int = 7766
    limit: int | None = None
    batch_size: int = 1
    architecture: str | None = None
    compare: str | None = None
    wait: float = 0.0
    pi: TwoPartyConfig = field(default_factory=TwoPartyConfig)
    tls: TlsConfig = field(default_factory=TlsConfig)
    emulate: EmulateConfig = field(default_factory=EmulateConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    run: RunConfig = field(default_factory=lambda: RunConfig(again=True))
