"""Golden versus faulty: errors appear where they were planted and no earlier, and a site is blamed for what
it alone does.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from circa_train import NoFault, UniformFault, with_exact_relus, with_stochastic_relus
from circa_train.data import ImageSet
from circa_train.diagnosis import compare_activations, site_sensitivity
from circa_train.evaluation import FIRST_DRAW, evaluate
from circa_train.nn.control import draw_state, set_draw, set_faults, set_specs, stochastic_relus

STATISTICS = {"mean": (0.5,), "std": (0.25,)}
SITES = ["first", "middle", "dead", "last"]


class Chain(nn.Module):
    """Four ReLU sites in a row; what the third one says counts for nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs, self.hidden, self.after = nn.Linear(16, 32), nn.Linear(32, 32), nn.Linear(32, 32)
        self.outputs = nn.Linear(32, 3)
        self.first, self.middle, self.dead, self.last = (nn.ReLU() for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.middle(self.hidden(self.first(self.inputs(x.flatten(1)))))
        x = x + 0.0 * self.dead(x - 0.1)
        return self.outputs(self.last(self.after(x)))


@pytest.fixture
def images() -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (64, 1, 4, 4), generator=generator, dtype=torch.uint8)
    return ImageSet(pixels, torch.randint(0, 3, (64,), generator=generator))


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(1)
    return with_stochastic_relus(Chain(), UniformFault(0.1), frac_bits=16, seed=3)


def only(site: str, rate: float = 0.1) -> dict[str, UniformFault | NoFault]:
    return {name: UniformFault(rate) if name == site else NoFault() for name in SITES}


def normalised(images: ImageSet) -> Tensor:
    return (images.images.float() / 255 - 0.5) / 0.25


def test_without_faults_nothing_differs(network: nn.Module, images: ImageSet) -> None:
    set_specs(network, NoFault())
    rows = compare_activations(network, normalised(images))
    assert [row.site for row in rows] == SITES
    assert all(row.gates == 0 and row.relative_error == 0 for row in rows)


@pytest.mark.parametrize("planted", SITES)
def test_errors_begin_where_they_are_planted(network: nn.Module, images: ImageSet, planted: str) -> None:
    set_specs(network, only(planted))
    rows = {row.site: row for row in compare_activations(network, normalised(images))}
    for site in SITES[: SITES.index(planted)]:
        assert rows[site].gates == 0
        assert rows[site].relative_error == 0
    assert rows[planted].relative_error == 0, "its inputs are still the plain ones"
    assert rows[planted].gates == pytest.approx(0.1, abs=5 * (0.09 / (64 * 32)) ** 0.5)
    harmed = SITES[SITES.index(planted) + 1 :] if planted != "dead" else []
    assert all(rows[site].relative_error > 0 and rows[site].gates > 0 for site in harmed)


def test_a_gate_at_zero_is_no_difference() -> None:
    """At z = 0 the drawn gate is open or closed, and the output is zero either way."""
    network = with_stochastic_relus(nn.Sequential(nn.ReLU(), nn.Flatten()), UniformFault(1.0, "passed"))
    (row,) = compare_activations(network, torch.tensor([[[[0.0, -0.0], [1.0, 2.0]]]]))
    assert row.gates == 0
    (row,) = compare_activations(network, torch.tensor([[[[0.0, -0.0], [-1.0, 2.0]]]]))
    assert row.gates == 0.25


def test_the_draw_can_be_chosen(network: nn.Module, images: ImageSet) -> None:
    z = normalised(images)
    assert compare_activations(network, z) == compare_activations(network, z, draw=FIRST_DRAW)
    assert compare_activations(network, z, draw=1) != compare_activations(network, z, draw=2)


def test_a_site_answers_for_its_own_faults(network: nn.Module, images: ImageSet) -> None:
    rows = {row.site: row for row in site_sensitivity(network, images, **STATISTICS, draws=3)}
    assert list(rows) == SITES
    assert rows["dead"].changed == rows["dead"].lost == rows["dead"].divergence == 0
    exact = evaluate(plain_of(network), images, **STATISTICS).mean
    for site in SITES:
        set_specs(network, only(site))
        alone = evaluate(network, images, **STATISTICS, draws=3)
        assert rows[site].lost == pytest.approx(exact - alone.mean)
        assert rows[site].changed >= abs(rows[site].lost) - 1e-12, (
            "predictions change at least as often as accuracy does"
        )
        assert (rows[site].divergence > 0) == (site != "dead")


def plain_of(network: nn.Module) -> nn.Module:
    return with_exact_relus(network).eval()


@torch.no_grad()
def test_divergence_by_hand(network: nn.Module, images: ImageSet) -> None:
    (row,) = site_sensitivity(network, images, **STATISTICS, sites=["last"])
    network.eval()
    z = normalised(images)
    set_faults(network, False)
    golden = network(z).double().softmax(1)
    stochastic_relus(network)["last"].faults_enabled = True
    set_draw(network, FIRST_DRAW)
    faulty = network(z).double().softmax(1)
    assert row.divergence == pytest.approx(float((golden * (golden / faulty).log()).sum(1).mean()))


def test_more_faults_harm_more(network: nn.Module, images: ImageSet) -> None:
    set_specs(network, UniformFault(0.4))
    strong = site_sensitivity(network, images, **STATISTICS, draws=2)
    set_specs(network, UniformFault(0.01))
    weak = site_sensitivity(network, images, **STATISTICS, draws=2)
    assert all(s.divergence > w.divergence for s, w in zip(strong, weak, strict=True) if s.site != "dead")


def test_everything_is_left_as_it_was(network: nn.Module, images: ImageSet) -> None:
    network.train()
    set_draw(network, 7, 2)
    stochastic_relus(network)["middle"].faults_enabled = False
    broken = ImageSet(images.images[:, :, :2, :2], images.labels)
    site_sensitivity(network, images, **STATISTICS)
    compare_activations(network, normalised(images))
    with pytest.raises(RuntimeError):
        site_sensitivity(network, broken, **STATISTICS)
    with pytest.raises(RuntimeError):
        compare_activations(network, normalised(broken))
    relus = stochastic_relus(network)
    assert [relu.faults_enabled for relu in relus.values()] == [True, False, True, True]
    assert set(map(tuple, draw_state(network).values())) == {(7, 2)}
    assert all(module.training for module in network.modules())
    assert not any(relu._forward_hooks for relu in relus.values())


def test_only_the_sites_asked_for(network: nn.Module, images: ImageSet) -> None:
    everything = {row.site: row for row in site_sensitivity(network, images, **STATISTICS)}
    some = site_sensitivity(network, images, **STATISTICS, sites=["last", "first"])
    assert some == [everything["last"], everything["first"]]
    with pytest.raises(ValueError, match=r"nowhere; the sites are first, middle, dead, last"):
        site_sensitivity(network, images, **STATISTICS, sites=["nowhere"])
    with pytest.raises(ValueError, match="draws = 0"):
        site_sensitivity(network, images, **STATISTICS, draws=0)
    with pytest.raises(ValueError, match="0 images"):
        site_sensitivity(network, ImageSet(images.images[:0], images.labels[:0]), **STATISTICS)
