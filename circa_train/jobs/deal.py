"""The dealer of private inferences: the work of ``scripts/deal.py``."""

from __future__ import annotations

import logging

from circa_train.gc.protocol import Listener
from circa_train.jobs.two_party import DealConfig
from circa_train.pi import load_network, serve_dealer

log = logging.getLogger("circa_train.console")


def work(config: DealConfig) -> None:
    """Read and check the folder, then answer both parties until interrupted."""
    network = load_network(config.export)
    with Listener(config.host, config.port, timeout=3600) as listener:
        log.info("dealing for %s at %s:%d", config.export, *listener.address)
        try:
            serve_dealer(network, listener, complain=log.warning)
        except KeyboardInterrupt:
            log.info("interrupted")
