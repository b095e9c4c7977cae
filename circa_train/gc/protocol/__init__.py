"""Two parties, one ReLU layer: garbling, oblivious transfer, multiplication, messages and transport."""

from __future__ import annotations

from typing import TYPE_CHECKING

from circa_train.lazy import face

if TYPE_CHECKING:
    from circa_train.gc.protocol.beaver import (
        OPENING_BYTES,
        DealtTriples,
        Multiplication,
        Triples,
        TripleSource,
        TrustedDealer,
    )
    from circa_train.gc.protocol.channel import Channel, Traffic
    from circa_train.gc.protocol.garbling import AND_BYTES, OUTPUT_BYTES, Evaluator, GarbledBatch, Garbler
    from circa_train.gc.protocol.local import run_locally
    from circa_train.gc.protocol.messages import Message, MessageKind
    from circa_train.gc.protocol.ot import TRANSFER_BYTES, EvaluatorTransfer, GarblerTransfer
    from circa_train.gc.protocol.parties import DEFAULT_CHUNK, Party, client, run_party, server
    from circa_train.gc.protocol.rescaling import Rescaling
    from circa_train.gc.protocol.session import Outcome, rescale_in_memory, run_in_memory, run_over_loopback
    from circa_train.gc.protocol.transport import DEFAULT_TIMEOUT, Listener, Transport, connect, memory_pair

__all__ = [
    "AND_BYTES",
    "DEFAULT_CHUNK",
    "DEFAULT_TIMEOUT",
    "OPENING_BYTES",
    "OUTPUT_BYTES",
    "TRANSFER_BYTES",
    "Channel",
    "DealtTriples",
    "Evaluator",
    "EvaluatorTransfer",
    "GarbledBatch",
    "Garbler",
    "GarblerTransfer",
    "Listener",
    "Message",
    "MessageKind",
    "Multiplication",
    "Outcome",
    "Party",
    "Rescaling",
    "Traffic",
    "Transport",
    "TripleSource",
    "Triples",
    "TrustedDealer",
    "client",
    "connect",
    "memory_pair",
    "rescale_in_memory",
    "run_in_memory",
    "run_locally",
    "run_over_loopback",
    "run_party",
    "server",
]

_HOMES = {
    "AND_BYTES": "garbling",
    "DEFAULT_CHUNK": "parties",
    "DEFAULT_TIMEOUT": "transport",
    "OPENING_BYTES": "beaver",
    "OUTPUT_BYTES": "garbling",
    "TRANSFER_BYTES": "ot",
    "Channel": "channel",
    "DealtTriples": "beaver",
    "Evaluator": "garbling",
    "EvaluatorTransfer": "ot",
    "GarbledBatch": "garbling",
    "Garbler": "garbling",
    "GarblerTransfer": "ot",
    "Listener": "transport",
    "Message": "messages",
    "MessageKind": "messages",
    "Multiplication": "beaver",
    "Outcome": "session",
    "Party": "parties",
    "Rescaling": "rescaling",
    "Traffic": "channel",
    "Transport": "transport",
    "TripleSource": "beaver",
    "Triples": "beaver",
    "TrustedDealer": "beaver",
    "client": "parties",
    "connect": "transport",
    "memory_pair": "transport",
    "rescale_in_memory": "session",
    "run_in_memory": "session",
    "run_locally": "local",
    "run_over_loopback": "session",
    "run_party": "parties",
    "server": "parties",
}
__getattr__, __dir__ = face(__name__, _HOMES)
