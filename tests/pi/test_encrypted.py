"""Whole inferences whose linear layers were prepared by homomorphic encryption: the same logits, every byte
foretold.
"""

from __future__ import annotations

import numpy as np
import pytest

from circa_train.pi.accounting import connection_bytes, offline_bytes, online_bytes
from circa_train.pi.clear import logits_under
from circa_train.pi.session import together
from circa_train.pi.walk import Walk

pytest.importorskip("seal", reason="needs the extra `homomorphic`")


@pytest.mark.parametrize("name", ["projection", "chain"])
def test_logits_and_traffic_without_a_dealer(name, networks, inputs):
    network, x = networks(name), inputs(name)
    walk = Walk(network.architecture)

    def converse(client):
        number = client.prepare(2, keep_masks=True)
        return client.infer(number, x[:2]), client.masks, client.line.traffic

    (logits, masks, found), _ = together(network, converse, offline="homomorphic")
    assert np.array_equal(logits, logits_under(network.architecture, network.tensors, x[:2], masks))
    expected = connection_bytes(walk, described=True, preparations=1, inferences=1, offline="homomorphic")
    expected.add(offline_bytes(walk, 2, "homomorphic"))
    expected.add(online_bytes(walk, 2))
    assert dict(found.sent) == dict(expected.sent)
    assert dict(found.received) == dict(expected.received)
