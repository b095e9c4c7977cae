"""A small dose of the attacks on messages; ``make torture`` gives the large one."""

from __future__ import annotations

from tests.torture.messages import damaged_messages, failing_peers


def test_no_wrong_message_is_accepted():
    tally = damaged_messages(120, seed=1)
    assert tally.counts["damaged messages"] == 120
    assert tally.held, tally.findings()


def test_no_failing_peer_holds_or_fools_the_other():
    tally = failing_peers(4, seed=1)
    assert tally.held, tally.findings()
