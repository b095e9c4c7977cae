"""A trial in processes of their own gives the accounting's bytes, and figures that make sense."""

from __future__ import annotations

import pytest

from circa_train.pi.accounting import online_bytes
from circa_train.pi.trial import run_trial
from circa_train.pi.walk import Walk


@pytest.mark.slow
def test_a_trial_of_three_processes(networks, inputs, monkeypatch):
    monkeypatch.setenv("CIRCA_TRAIN_COMPILED_AES", "0")  # for the processes: nothing to compile
    network, x = networks("chain"), inputs("chain")[:1]
    found = run_trial(network, x, 2)
    expected = online_bytes(Walk(network.architecture), 1)
    assert (found.sent, found.received) == (sum(expected.sent.values()), sum(expected.received.values()))
    assert len(found.online) == len(found.offline) == 2
    assert min(found.online) > 0
    assert found.online_processor > 0
    assert found.client_peak_mib > 10
