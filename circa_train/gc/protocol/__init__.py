"""Two parties, one ReLU layer: garbling, oblivious transfer, multiplication, messages and transport."""

from __future__ import annotations

from typing import TYPE_CHECKING

from circa_train.lazy import face

if TYPE_CHECKING:
    from circa_train.gc.protocol.base_ot import POINT_BYTES
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
    from circa_train.gc.protocol.gating import (
        GarbledBits,
        both_pads,
        own_part,
        pads,
        send_product,
        take_product,
    )
    from circa_train.gc.protocol.local import run_locally
    from circa_train.gc.protocol.messages import Due, Message, MessageKind, overhead
    from circa_train.gc.protocol.ot import COLUMNS, TRANSFER_BYTES, EvaluatorTransfer, GarblerTransfer
    from circa_train.gc.protocol.parties import DEFAULT_CHUNK, Party, client, run_party, server
    from circa_train.gc.protocol.rescaling import Rescaling
    from circa_train.gc.protocol.session import Outcome, rescale_in_memory, run_in_memory, run_over_loopback
    from circa_train.gc.protocol.transport import (
        DEFAULT_TIMEOUT,
        FRAME_BYTES,
        Listener,
        NobodyListens,
        Transport,
        connect,
        memory_pair,
        reach,
    )

__all__ = [
    "AND_BYTES",
    "COLUMNS",
    "DEFAULT_CHUNK",
    "DEFAULT_TIMEOUT",
    "FRAME_BYTES",
    "OPENING_BYTES",
    "OUTPUT_BYTES",
    "POINT_BYTES",
    "TRANSFER_BYTES",
    "Channel",
    "DealtTriples",
    "Due",
    "Evaluator",
    "EvaluatorTransfer",
    "GarbledBatch",
    "GarbledBits",
    "Garbler",
    "GarblerTransfer",
    "Listener",
    "Message",
    "MessageKind",
    "Multiplication",
    "NobodyListens",
    "Outcome",
    "Party",
    "Rescaling",
    "Traffic",
    "Transport",
    "TripleSource",
    "Triples",
    "TrustedDealer",
    "both_pads",
    "client",
    "connect",
    "memory_pair",
    "overhead",
    "own_part",
    "pads",
    "reach",
    "rescale_in_memory",
    "run_in_memory",
    "run_locally",
    "run_over_loopback",
    "run_party",
    "send_product",
    "server",
    "take_product",
]

_HOMES = {
    "AND_BYTES": "garbling",
    "COLUMNS": "ot",
    "DEFAULT_CHUNK": "parties",
    "DEFAULT_TIMEOUT": "transport",
    "FRAME_BYTES": "transport",
    "OPENING_BYTES": "beaver",
    "OUTPUT_BYTES": "garbling",
    "POINT_BYTES": "base_ot",
    "TRANSFER_BYTES": "ot",
    "Channel": "channel",
    "DealtTriples": "beaver",
    "Due": "messages",
    "Evaluator": "garbling",
    "EvaluatorTransfer": "ot",
    "GarbledBatch": "garbling",
    "GarbledBits": "gating",
    "Garbler": "garbling",
    "GarblerTransfer": "ot",
    "Listener": "transport",
    "Message": "messages",
    "MessageKind": "messages",
    "Multiplication": "beaver",
    "NobodyListens": "transport",
    "Outcome": "session",
    "Party": "parties",
    "Rescaling": "rescaling",
    "Traffic": "channel",
    "Transport": "transport",
    "TripleSource": "beaver",
    "Triples": "beaver",
    "TrustedDealer": "beaver",
    "both_pads": "gating",
    "client": "parties",
    "connect": "transport",
    "memory_pair": "transport",
    "overhead": "messages",
    "own_part": "gating",
    "pads": "gating",
    "reach": "transport",
    "rescale_in_memory": "session",
    "run_in_memory": "session",
    "run_locally": "local",
    "run_over_loopback": "session",
    "run_party": "parties",
    "send_product": "gating",
    "server": "parties",
    "take_product": "gating",
}
__getattr__, __dir__ = face(__name__, _HOMES)
