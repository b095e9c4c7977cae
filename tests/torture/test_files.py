"""A small dose of damage to files, and of compared sign tests; ``make torture`` gives the large one."""

from __future__ import annotations

import pytest

from tests.torture.files import KINDS, damaged_files
from tests.torture.signs import compared_signs


@pytest.mark.parametrize("name", ["checkpoints", "caches", "export folders"])
def test_damage_is_refused_or_harmless(name, tmp_path):
    tally = damaged_files(60, 1, tmp_path, {name: KINDS[name]})
    assert tally.counts[f"damaged {name}"] == 60
    assert tally.held, tally.findings()


def test_three_ways_give_the_same_signs():
    tally = compared_signs(40_000, 1)
    assert tally.held, tally.findings()
