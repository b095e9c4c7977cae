"""Private inference between two parties: shares of a whole network. Never imports torch.

architecture   what both know: layers, shapes, every k
network        what the server has: an export folder
walk, masks    the order of one inference, and the client's share of everything before it starts
server, client both parties, offline and online; serving and session run them
dealer         who prepares linear layers in experiments; encrypted does it without
stores         what is prepared, used once
clear          the definition: which logits must come out
accounting     every byte, from the architecture alone
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from circa_train.lazy import face

if TYPE_CHECKING:
    from circa_train.pi.accounting import connection_bytes, offline_bytes, online_bytes, online_bytes_per_relu
    from circa_train.pi.architecture import Architecture, ArchitectureError
    from circa_train.pi.clear import logits_under
    from circa_train.pi.client import Client
    from circa_train.pi.dealer import serve_dealer
    from circa_train.pi.garbling import warm_up
    from circa_train.pi.handshake import OFFLINES, Refused
    from circa_train.pi.line import Traffic
    from circa_train.pi.link import LineSpeed, emulated
    from circa_train.pi.network import Network, load_network
    from circa_train.pi.server import Server
    from circa_train.pi.serving import client_tls, dealer_process, serve_clients, server_tls
    from circa_train.pi.session import infer_in_memory, together
    from circa_train.pi.stores import StoreError, Stores
    from circa_train.pi.trial import Trial, peak_mib, run_trial
    from circa_train.pi.walk import Group, Walk

_HOMES = {
    "OFFLINES": "handshake",
    "Architecture": "architecture",
    "ArchitectureError": "architecture",
    "Client": "client",
    "Group": "walk",
    "LineSpeed": "link",
    "Network": "network",
    "Refused": "handshake",
    "Server": "server",
    "StoreError": "stores",
    "Stores": "stores",
    "Traffic": "line",
    "Trial": "trial",
    "Walk": "walk",
    "client_tls": "serving",
    "connection_bytes": "accounting",
    "dealer_process": "serving",
    "emulated": "link",
    "infer_in_memory": "session",
    "load_network": "network",
    "logits_under": "clear",
    "offline_bytes": "accounting",
    "online_bytes": "accounting",
    "online_bytes_per_relu": "accounting",
    "peak_mib": "trial",
    "run_trial": "trial",
    "serve_clients": "serving",
    "serve_dealer": "dealer",
    "server_tls": "serving",
    "together": "session",
    "warm_up": "garbling",
}

__all__ = [
    "OFFLINES",
    "Architecture",
    "ArchitectureError",
    "Client",
    "Group",
    "LineSpeed",
    "Network",
    "Refused",
    "Server",
    "StoreError",
    "Stores",
    "Traffic",
    "Trial",
    "Walk",
    "client_tls",
    "connection_bytes",
    "dealer_process",
    "emulated",
    "infer_in_memory",
    "load_network",
    "logits_under",
    "offline_bytes",
    "online_bytes",
    "online_bytes_per_relu",
    "peak_mib",
    "run_trial",
    "serve_clients",
    "serve_dealer",
    "server_tls",
    "together",
    "warm_up",
]
__getattr__, __dir__ = face(__name__, _HOMES)
