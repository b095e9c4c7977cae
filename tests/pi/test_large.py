"""Whole networks of the usual sizes between two parties: logits and bytes are the definition's."""

from __future__ import annotations

import numpy as np
import pytest

from circa_train.benchmark.two_party import integer_network
from circa_train.pi import Walk, infer_in_memory, offline_bytes, online_bytes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "k", "offline"),
    [
        ("vgg16", 17, "dealer"),
        ("resnet32", 12, "dealer"),
        ("resnet32", 17, "dealer"),
        ("resnet32", 17, "homomorphic"),
    ],
)
def test_the_logits_of_a_whole_network_are_those_of_the_definition(name, k, offline):
    if offline == "homomorphic":
        pytest.importorskip("seal", reason="homomorphic encryption is an extra of the package")
    network, x = integer_network(name, k)
    outcome = infer_in_memory(network, x, offline=offline)
    assert np.array_equal(outcome.logits, outcome.expected)
    walk = Walk(network.architecture)
    assert outcome.client.of("offline") == offline_bytes(walk, 1, offline).of("offline")
    assert outcome.client.of("online") == online_bytes(walk, 1).of("online")
