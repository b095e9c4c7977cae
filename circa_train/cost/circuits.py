"""Which garbled circuit computes a sign test: the one place where fault models and circuits meet before
verification.

A fault model of your own has none until you register one::

    register_circuit(MyTest, lambda spec: MyCircuit(spec.prime, spec.k))

From then on it has a cost, and ``scripts/verify.py`` compares the model with the circuit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from circa_train.fault import BitWindow, NoFault, SignTest, TruncatedSign, UniformFault
from circa_train.field import DEFAULT_PRIME
from circa_train.gc.circuits import ReluCircuit, SignCircuit

Specs = SignTest | Mapping[str, SignTest]

_CIRCUITS: dict[type[SignTest], Callable[[Any], SignCircuit]] = {}

#: Why there is no circuit, where there is more to say than that nobody has registered one.
_REASONS: Mapping[type[SignTest], str] = {
    NoFault: "an exact ReLU: it draws no mask, so there is no stochastic sign to compare",
    UniformFault: "flips at a uniform rate are a statistical model; no circuit computes them",
    BitWindow: "HummingBird's bit window is tested on shares modulo 2^64; the circuits here are those of Z_p",
}


def register_circuit(test: type[SignTest], make: Callable[[Any], SignCircuit]) -> None:
    """Say which circuit computes a sign test.

    Args:
        test: the class of the fault model; its ``prime`` is the field, and its masks are uniform on it.
        make: from a test of that class (of one channel) to its circuit.
    """
    _CIRCUITS[test] = make


def why_no_circuit(spec: SignTest) -> str | None:
    """None if a garbled circuit computes ``spec``, else the reason why there is none."""
    if type(spec) in _CIRCUITS:
        return None
    return _REASONS.get(
        type(spec), f"no circuit is registered for the fault model {spec.kind!r} (register_circuit)"
    )


def circuit_of(spec: SignTest) -> SignCircuit:
    """The circuit of a sign test with the same parameters in every channel; ValueError if there is none."""
    if (reason := why_no_circuit(spec)) is not None:
        raise ValueError(f"{spec} has no garbled circuit and so no cost: {reason}")
    return _CIRCUITS[type(spec)](spec)


def exact_circuit(specs: Specs) -> SignCircuit:
    """What a site without faults is taken to run: the paper's circuit (b), over the field of the others."""
    candidates = specs.values() if isinstance(specs, Mapping) else [specs]
    primes = (spec.prime for spec in candidates if why_no_circuit(spec) is None)
    return ReluCircuit("exact", next(primes, DEFAULT_PRIME))


def circuits_of(spec: SignTest, exact: SignCircuit | None = None) -> Counter[SignCircuit]:
    """The circuits that realise a sign test, each with the number of channels that use it (1 in all, if they
    are one).

    Raises:
        ValueError: if no circuit of Z_p computes it.
    """
    if spec.is_exact:
        return Counter([exact or exact_circuit(spec)])
    return Counter(circuit_of(each) for each in spec.channels())


register_circuit(TruncatedSign, lambda spec: ReluCircuit("truncated", spec.prime, spec.k, spec.mode))
