"""The server of private inferences: the work of ``scripts/serve.py``."""

from __future__ import annotations

import logging
import ssl
from contextlib import nullcontext
from pathlib import Path

from circa_train.gc.protocol import Listener
from circa_train.jobs.two_party import ServeConfig, TlsConfig, TwoPartyConfig
from circa_train.pi import (
    OFFLINES,
    Server,
    Stores,
    dealer_process,
    load_network,
    serve_clients,
    server_tls,
    warm_up,
)

log = logging.getLogger("circa_train.console")


def work(config: ServeConfig) -> None:
    """Read and check the folder, then serve whoever connects until interrupted."""
    check_offline(config.pi)
    tls = _tls(config.tls)
    network = load_network(config.export)
    warm_up(network.architecture.prime)
    stores = Stores(stores_of(config.pi, config.run.root), "server")
    given = None if config.pi.dealer is None else address_of(config.pi.dealer)
    own = config.pi.offline == "dealer" and given is None
    beside = dealer_process(config.export, config.host) if own else nullcontext(given)
    try:
        with beside as dealer, Listener(config.host, config.port, config.pi.timeout, tls=tls) as listener:
            server = Server(
                network, stores, offline=config.pi.offline, dealer=dealer, own_dealer=own,  # type: ignore[arg-type]
                timeout=config.pi.timeout,
            )  # fmt: skip
            host, port = listener.address
            log.info("serving %s at %s:%d%s", config.export, host, port, ", in TLS" if tls else "")
            log.info("architecture %s", network.architecture.digest.hex())
            log.info("parameters   %s", network.parameters_digest.hex())
            if own and dealer is not None:
                log.info(
                    "linear layers: a dealer of this server's own, at %s:%d; it knows the masks of clients, "
                    "so this is an experiment and keeps no secret from this machine", *dealer
                )  # fmt: skip
            elif given is not None:
                log.info("linear layers: the dealer at %s:%d", *given)
            else:
                log.info("linear layers: homomorphic encryption")
            serve_clients(server, listener, connections=config.connections, report=log.info)
    except KeyboardInterrupt:
        log.info("interrupted; what is prepared waits in %s", stores_of(config.pi, config.run.root))


def check_offline(config: TwoPartyConfig) -> None:
    """ValueError for a way to prepare linear layers that there is not."""
    if config.offline not in OFFLINES:
        raise ValueError(f"pi.offline = {config.offline!r} is none of {', '.join(OFFLINES)}")


def stores_of(config: TwoPartyConfig, root: str) -> Path:
    """The folder of preparations."""
    return Path(root) / "pi" if config.stores is None else Path(config.stores)


def address_of(text: str) -> tuple[str, int]:
    """host:port as (host, port).

    Raises:
        ValueError: if it is not that.
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"{text!r} is no address: give host:port, as in 127.0.0.1:7767")
    return host, int(port)


def _tls(config: TlsConfig) -> ssl.SSLContext | None:
    if config.certificate is None and config.key is None and config.authority is None:
        return None
    if config.certificate is None or config.key is None:
        raise ValueError("tls.certificate and tls.key belong together: a server shows both")
    return server_tls(config.certificate, config.key, config.authority)
