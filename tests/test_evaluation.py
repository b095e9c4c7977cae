"""Accuracy over repeated draws: the interval, the stopping rule, independence of batches and history, the
expected value.
"""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from torch import Tensor, nn

from circa_train import NoFault, TruncatedSign, UniformFault, with_stochastic_relus
from circa_train.data import Batches, ImageSet
from circa_train.evaluation import (
    FIRST_DRAW,
    Computing,
    Evaluation,
    evaluate,
    has_faults,
    kept_draws,
    one_draw,
)
from circa_train.nn.control import draw_state, set_draw, set_faults, set_specs

STATISTICS = {"mean": (0.5,), "std": (0.25,)}


class Small(nn.Module):
    """Two ReLU sites behind a BatchNorm, whose mode shows whether evaluation mode was taken and given
    back.
    """

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten()
        )
        self.head = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


@pytest.fixture
def images() -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (50, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return ImageSet(pixels, torch.randint(0, 3, (50,), generator=generator))


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(1)
    return with_stochastic_relus(Small(), UniformFault(0.2), frac_bits=16, seed=3)


class Gate(nn.Module):
    """Says class 1 if the ReLU let its positive input through, else class 0: right exactly where no fault was
    drawn.
    """

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(x.flatten(1).mean(1, keepdim=True) * 0 + 1)
        return torch.cat([torch.full_like(y, 0.5), y], 1)


def test_the_interval_is_students() -> None:
    measured = Evaluation((0.90, 0.92, 0.91, 0.95), images=1000)
    assert measured.mean == pytest.approx(0.92)
    assert measured.std == pytest.approx(statistics.stdev([0.90, 0.92, 0.91, 0.95]))
    half = 3.182446305284263 * measured.std / 2  # the tabulated 97.5% point of t with 3 degrees of freedom
    assert measured.interval == pytest.approx((0.92 - half, 0.92 + half))
    assert measured.width == pytest.approx(2 * half)


def test_the_interval_at_its_edges() -> None:
    assert Evaluation((0.5,), 10).interval == (0.0, 1.0)
    assert Evaluation((0.5,), 10, exact=True).interval == (0.5, 0.5)
    assert Evaluation((0.99, 0.9, 1.0), 10).interval[1] == 1.0
    assert Evaluation((0.01, 0.1, 0.0), 10).interval[0] == 0.0


def test_draws_that_agree_still_leave_room() -> None:
    """A draw that differs with probability q goes unseen n times with (1 - q)^n = 5%, and then moves the mean
    by q / images.
    """
    measured = Evaluation((0.5,) * 5, images=200)
    low, high = measured.interval
    q = (high - 0.5) * 200
    assert (1 - q) ** 5 == pytest.approx(0.05)
    assert low == pytest.approx(1 - high)
    assert Evaluation((0.5,) * 50, 200).width < measured.width


@pytest.mark.parametrize("batch_size", [7, 64])
def test_no_dependence_on_the_batch_size(network: nn.Module, images: ImageSet, batch_size: int) -> None:
    whole = evaluate(network, images, **STATISTICS, draws=3, batch_size=50)
    assert evaluate(network, images, **STATISTICS, draws=3, batch_size=batch_size) == whole
    assert len(set(whole.accuracies)) > 1, "faults at 20% must show"


def test_no_dependence_on_history_and_parts_join(network: nn.Module, images: ImageSet) -> None:
    whole = evaluate(network, images, **STATISTICS, draws=6)
    first = evaluate(network, images, **STATISTICS, draws=2)
    rest = evaluate(network, images, **STATISTICS, draws=4, first_draw=FIRST_DRAW + 2)
    assert first.joined(rest) == whole
    assert evaluate(network, images, **STATISTICS, draws=6, first_draw=FIRST_DRAW + 6) != whole
    with pytest.raises(ValueError, match="not parts of one"):
        first.joined(Evaluation((0.5,), 49))


def test_against_a_loop_by_hand(network: nn.Module, images: ImageSet) -> None:
    network.eval()
    z = (images.images.float() / 255 - 0.5) / 0.25
    by_hand = []
    for draw in range(2):
        set_draw(network, FIRST_DRAW + draw)
        with torch.no_grad():
            by_hand.append(int((network(z).argmax(1) == images.labels).sum()))
    measured = evaluate(network, images, **STATISTICS, draws=2)
    assert [round(accuracy * 50) for accuracy in measured.accuracies] == by_hand


def test_stops_as_soon_as_the_interval_is_narrow(network: nn.Module, images: ImageSet) -> None:
    everything = evaluate(network, images, **STATISTICS, draws=40).accuracies
    width = Evaluation(everything[:9], 50).width
    stopped = evaluate(network, images, **STATISTICS, draws=2, until_width=width, max_draws=40)
    assert stopped.accuracies == everything[: len(stopped.accuracies)]
    assert stopped.width <= width
    for n in range(2, len(stopped.accuracies)):
        assert Evaluation(everything[:n], 50).width > width, f"could have stopped after {n} draws"
    least = evaluate(network, images, **STATISTICS, draws=12, until_width=0.9, max_draws=40)
    assert len(least.accuracies) == 12, "draws is the least"
    assert len(evaluate(network, images, **STATISTICS, draws=1, until_width=0.999).accuracies) == 2, (
        "one draw shows no spread"
    )
    assert (
        len(evaluate(network, images, **STATISTICS, draws=2, until_width=1e-9, max_draws=5).accuracies) == 5
    )


def test_exact_networks_take_one_pass(network: nn.Module, images: ImageSet) -> None:
    plain = evaluate(Small(), images, **STATISTICS, draws=4)
    assert plain.exact
    assert len(plain.accuracies) == 1
    assert plain.width == 0.0
    assert has_faults(network)
    set_faults(network, False)
    off = evaluate(network, images, **STATISTICS, until_width=1e-6)
    set_faults(network, True)
    set_specs(network, NoFault())
    assert not has_faults(network)
    assert evaluate(network, images, **STATISTICS, draws=4) == off
    assert off.exact


def test_the_network_is_left_as_it_was(network: nn.Module, images: ImageSet) -> None:
    network.train()
    network.get_submodule("body.1").eval()
    set_draw(network, 17, 5)
    modes = {name: module.training for name, module in network.named_modules()}
    state = {name: value.clone() for name, value in network.state_dict().items()}
    evaluate(network, images, **STATISTICS, draws=2)
    broken = ImageSet(images.images[:, :, :3, :3], images.labels)
    with pytest.raises(RuntimeError):
        evaluate(network, broken, **STATISTICS, draws=2)
    assert {name: module.training for name, module in network.named_modules()} == modes
    assert set(map(tuple, draw_state(network).values())) == {(17, 5)}
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    with kept_draws(network):
        set_draw(network, 3)
    assert set(map(tuple, draw_state(network).values())) == {(17, 5)}


def faults_in(rate: float, expected: float) -> float:
    """Deviation, in standard deviations of the binomial, of the accuracy of the gate under ``rate`` from 1 -
    ``expected``.
    """
    images = ImageSet(torch.zeros(2000, 1, 2, 2, dtype=torch.uint8), torch.ones(2000, dtype=torch.int64))
    network = with_stochastic_relus(Gate(), UniformFault(rate), seed=11)
    measured = evaluate(network, images, **STATISTICS, draws=20)
    sigma = math.sqrt(expected * (1 - expected) / (20 * 2000))
    return abs(measured.mean - (1 - expected)) / sigma


def test_the_mean_is_the_expected_accuracy() -> None:
    assert faults_in(0.05, expected=0.05) < 5
    assert faults_in(0.057, expected=0.05) > 5, "the bound must see a rate that is off by 0.7 points"


def test_which_images_are_right(network: nn.Module, images: ImageSet) -> None:
    right = one_draw(network, Batches(images, 8, **STATISTICS), FIRST_DRAW)
    assert right.dtype == torch.bool
    assert right.shape == (50,)
    assert float(right.double().mean()) == evaluate(network, images, **STATISTICS, draws=1).mean


def test_refusals(network: nn.Module, images: ImageSet) -> None:
    empty = ImageSet(images.images[:0], images.labels[:0])
    with pytest.raises(ValueError, match="empty"):
        evaluate(network, empty, **STATISTICS)
    with pytest.raises(ValueError, match="draws = 0"):
        evaluate(network, images, **STATISTICS, draws=0)
    for width, most in ((0.0, 50), (-1.0, 50), (0.1, 1), (0.1, 4)):
        with pytest.raises(ValueError, match="until_width"):
            evaluate(network, images, **STATISTICS, draws=5, until_width=width, max_draws=most)
    with pytest.raises(ValueError, match="logits"):
        evaluate(nn.Conv2d(1, 3, 3), images, **STATISTICS)
    set_specs(network, TruncatedSign(3, prime=65537))
    with pytest.raises(ValueError, match=r"site body\.2: .* overflow"):
        evaluate(network, images, **STATISTICS)


@pytest.mark.parametrize(
    ("computing", "dtype", "last"),
    [
        (Computing(), torch.float32, False),
        (Computing(channels_last=True), torch.float32, True),
        (Computing("bfloat16"), torch.bfloat16, False),
        (Computing("bfloat16", channels_last=True), torch.bfloat16, True),
    ],
)
def test_precision_and_memory_format_reach_the_sign_tests(
    network: nn.Module, images: ImageSet, computing: Computing, dtype: torch.dtype, last: bool
) -> None:
    seen = []

    def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append((inputs[0].dtype, inputs[0].stride(1) == 1))

    site = network.get_submodule("body.2")
    with site.register_forward_pre_hook(look):  # type: ignore[attr-defined]
        found = evaluate(network, images, draws=2, computing=computing, **STATISTICS)
    assert set(seen) == {(dtype, last)}
    assert len(found.accuracies) == 2
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    if dtype == torch.float32:
        assert found == evaluate(network, images, draws=2, **STATISTICS)


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="precision = 'float16' is not one of float32, bfloat16"):
        Computing("float16")
