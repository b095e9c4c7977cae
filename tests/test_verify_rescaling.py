"""The rescaling of an export, in every way: all agree, and a wrong value in any is counted and named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from circa_train import NoFault, TruncatedSign
from circa_train.export import to_integers
from circa_train.export.rescale_samples import rescale_samples
from circa_train.verify import verify_rescaling


class Network(nn.Module):
    """A k per channel, an exact ReLU, a pool, a flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 3, 3)
        self.relu1, self.relu2, self.pool = nn.ReLU(), nn.ReLU(), nn.AvgPool2d(2)
        self.three, self.relu3, self.fc = nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Linear(16, 3)

    def forward(self, x):
        x = self.pool(self.relu2(self.two(self.relu1(self.one(x)))))
        return self.fc(torch.flatten(self.relu3(self.three(x)), 1))


@pytest.fixture(scope="module")
def samples():
    torch.manual_seed(0)
    images = torch.randn(4, 3, 6, 6)
    specs = {"relu1": TruncatedSign((3, 9, 3, 12), "negpass"), "relu2": TruncatedSign(7), "relu3": NoFault()}
    network = to_integers(Network().eval(), specs, [images]).network
    return list(rescale_samples(network, network.quantize(images), 64))


def test_every_way_agrees_at_every_rescaling(samples):
    reports = [verify_rescaling(sample, seed=1) for sample in samples]
    assert all(not any(report.mismatches.values()) for report in reports)
    sites = [report.site for report in reports]
    assert sites.count("relu1") == 3  # one circuit for each k
    assert "relu2" in sites
    assert None in sites
    for report in reports:
        expected = {"executor", "reader", "parties"} | ({"simulator"} if report.site else set())
        assert set(report.ways) == expected
    assert sum(report.values for report in reports if report.site == "relu1") == 64


@pytest.mark.parametrize("way", ["executor", "reader", "simulator"])
def test_a_single_wrong_value_is_named(samples, way):
    sample = next(s for s in samples if s.site == "relu2")
    wrong = sample.found[way].copy()
    wrong[5] += 1
    report = verify_rescaling(replace(sample, found={**sample.found, way: wrong}), seed=1)
    assert report.mismatches == {**dict.fromkeys(report.ways, 0), way: 1}
    (text,) = report.named
    assert f"layer {sample.layer}, element {sample.elements[5]}: x = {sample.x[5]}" in text
    assert f"{way} got {wrong[5]}" in text


def test_a_mask_of_another_draw_is_found(samples):
    """The parties then do what that mask says, and the others did not."""
    sample = next(s for s in samples if s.site is None)
    report = verify_rescaling(replace(sample, mask=sample.mask[::-1].copy()), seed=1)
    assert report.mismatches["parties"] == 0
    assert report.mismatches["executor"] > 0
    with pytest.raises(ValueError, match="no value to verify"):
        verify_rescaling(replace(sample, x=np.zeros(0, dtype=np.int64)))
