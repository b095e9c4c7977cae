"""Every sign test of a set of images: nothing is left out, one wrong value is named, and being killed changes
nothing.
"""

from __future__ import annotations

import json
import math
import random
import signal
import subprocess
import sys
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from circa_train.data import Batches, ImageSet
from circa_train.evaluation import FIRST_DRAW, evaluate, one_draw
from circa_train.fault import NoFault, SignTest, TruncatedSign, fault_probability, uniform_masks
from circa_train.fault.masks import masks_at
from circa_train.field import DEFAULT_PRIME
from circa_train.jobs.settings import VerifyConfig
from circa_train.jobs.verify_every import whole_split
from circa_train.nn.control import site_inputs, stochastic_relus
from circa_train.nn.convert import with_stochastic_relus
from circa_train.verify import (
    Ledger,
    SiteTally,
    every_table,
    piece,
    rate,
    rates,
    tally,
    verdict,
    verify_every,
)
from circa_train.verify.masks import consecutive_masks
from circa_train.verify.piece import Bench, Site, compare_piece

MEAN, STD = (0.5,), (0.25,)
SITES = ("1", "3")


def network_of(spec: Any, frac_bits: int = 12) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(4 * 36, 3),
    )  # fmt: skip
    return with_stochastic_relus(model, spec, frac_bits=frac_bits, seed=3)


def images_of(count: int) -> ImageSet:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 1, 6, 6), generator=generator, dtype=torch.uint8)
    return ImageSet(images, torch.randint(0, 3, (count,), generator=generator))



@pytest.mark.parametrize(
    ("largest", "asked", "size"),
    [(16_384, None, 256), (65_536, None, 256), (262_144, None, 64), (1 << 25, None, 1), (262_144, 100, 100)],
)
def test_a_batch_has_fewer_images_where_they_are_large(largest: int, asked: int | None, size: int) -> None:
    config = VerifyConfig()
    config.verify.batch_size = asked
    network = network_of(TruncatedSign(12))
    whole = whole_split(config, network, {"1": 7, "3": largest}, images_of(3), MEAN, STD)
    assert whole.details["batch_size"] == size


def batches_of(count: int, size: int = 4) -> Batches:
    return Batches(images_of(count), size, mean=MEAN, std=STD)


def every(network: nn.Module, count: int = 10, size: int = 4, sites: Any = SITES, **options: Any) -> Any:
    return verify_every(network, batches_of(count, size), sites, images=count, **options)


def outcome(report: Any) -> dict[str, Any]:
    """All of a report that may not depend on when and how fast it was computed."""
    return {
        "sites": {name: found.to_dict() for name, found in report.tallies.items()},
        "predictions": report.predictions.tolist(),
    }


@pytest.mark.parametrize("prime", [67, 251, DEFAULT_PRIME])
def test_masks_are_those_of_the_address(prime: int) -> None:
    address = {"seed": 2**64 - 3, "site": 7, "draw": 2**33 + 5}
    for first, count in ((0, 700), (2**41 + 77, 300), (255, 2)):
        elements = torch.arange(first, first + count)
        found = consecutive_masks(TruncatedSign(3, prime=prime), first, count, **address)
        np.testing.assert_array_equal(found, masks_at(elements, prime=prime, **address))
    with pytest.raises(ValueError, match="range of addresses"):
        consecutive_masks(TruncatedSign(3), 2**42 - 1, 2, **address)


@pytest.mark.parametrize(
    "spec",
    [
        TruncatedSign(8),
        TruncatedSign(8, "negpass"),
        TruncatedSign((0, 5, 9, 5)),
        TruncatedSign(3, prime=65537),
        {"1": TruncatedSign(11), "3": TruncatedSign((7, 7, 2, 12), "negpass")},
    ],
)
@pytest.mark.parametrize("workers", [1, 3])
def test_every_sign_test_agrees_and_the_accuracy_is_the_evaluation_s(spec: Any, workers: int) -> None:
    network = network_of(spec, frac_bits=8)
    report = every(network, workers=workers)
    assert report.mismatches == 0
    assert report.compared == 10 * 2 * 144
    assert report.aes_calls > 0
    right = one_draw(network, batches_of(10), FIRST_DRAW).numpy()
    np.testing.assert_array_equal(report.predictions == report.labels, right)
    measured = evaluate(network, images_of(10), mean=MEAN, std=STD, draws=1, batch_size=4)
    assert report.accuracy == measured.accuracies[0]


def test_counts_and_expectations_are_those_of_the_definition() -> None:
    spec, seen = TruncatedSign(9, "negpass"), []
    network = network_of(spec)
    with site_inputs(network, lambda name, z: seen.append(z.clone()) if name == "1" else None):
        found = every(network).tallies["1"]
    x = torch.round(torch.cat(seen).double() * 2**12).long()
    t = uniform_masks(x.shape, seed=3, site=0, draw=FIRST_DRAW)
    gate, share = spec.gate(x, t), (x + t) % spec.prime
    assert found.compared == x.numel()
    assert found.zeros == int((x == 0).sum())
    assert found.ties == int((share >> 9 == t >> 9).sum()) > 0
    assert found.wraps == int(((x + t < 0) | (x + t >= spec.prime)).sum())
    assert found.zeroed == int(((x > 0) & ~gate).sum())
    assert found.passed == int(((x < 0) & gate).sum()) > 0
    assert math.isclose(sum(found.expected.values()), float(fault_probability(x, spec).sum()))
    q = fault_probability(x, spec)
    assert math.isclose(sum(found.variance.values()), float((q * (1 - q)).sum()), rel_tol=1e-6)


def test_digests_depend_on_the_values_alone_and_show_one_other_value() -> None:
    first, second = nn.Conv2d(1, 4, 1, bias=False), nn.Conv2d(4, 4, 1, bias=False)
    with torch.no_grad():  # weights that no processor rounds, whatever the batch size
        first.weight.fill_(1)
        second.weight.copy_(2 * torch.eye(4)[:, :, None, None])
    model = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    network = with_stochastic_relus(model, TruncatedSign(9), frac_bits=12)
    reports = [outcome(every(network, size=size)) for size in (1, 4, 10)]
    for name in SITES:
        assert len({json.dumps(report["sites"][name]["digests"]) for report in reports}) == 1
    other = outcome(every(network, draw=FIRST_DRAW + 1))["sites"]["1"]["digests"]
    assert other["x"] == reports[0]["sites"]["1"]["digests"]["x"]
    assert other["masks"] != reports[0]["sites"]["1"]["digests"]["masks"]


# ---------------------------------------------------------------------------- planted errors


def planted_at(network: nn.Module, count: int) -> tuple[int, int]:
    """(image, element) of site "3" where the value is largest: its gate is open, and any wrap closes it."""
    seen: list[torch.Tensor] = []
    with site_inputs(network, lambda name, z: seen.append(z.clone()) if name == "3" else None):
        every(network, count)
    flat = torch.cat(seen).flatten(1)
    image, element = divmod(int(flat.argmax()), flat.shape[1])
    return image, element


def check_named(report: Any, way: set[str], image: int, element: int) -> None:
    named = report.tallies["3"].named
    assert {each.way for each in named} == way
    assert {(each.site, each.image, each.element) for each in named} == {("3", image, element)}
    assert f"site 3, image {image}, element {element}: x = " in str(named[0])
    assert report.mismatches == len(way)
    assert not report.tallies["3"].agrees
    assert report.tallies["1"].agrees


def test_one_wrong_mask_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    network = network_of(TruncatedSign(8))
    image, element = planted_at(network, 10)
    honest = consecutive_masks

    def wrong(spec: SignTest, first: int, count: int, *, site: int, **address: Any) -> Any:
        t, at = honest(spec, first, count, site=site, **address), image * 144 + element - first
        if site == 1 and 0 <= at < count:
            t[at] = spec.prime - 1
        return t

    monkeypatch.setattr(piece, "consecutive_masks", wrong)
    check_named(every(network), {"simulator"}, image, element)


def test_one_wrong_k_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    network = network_of(TruncatedSign(8))
    image, element = planted_at(network, 10)
    honest = Site.groups

    def wrong(site: Site, first: int, count: int) -> Any:
        at = image * 144 + element - first
        if site.number != 1 or not 0 <= at < count:
            return honest(site, first, count)
        other = TruncatedSign(30)  # a single bit is compared: a large value ties under nearly every mask
        site.circuits[other] = Site("3", 1, 3, other, 144, 4).circuits[other]
        return [(site.spec, np.delete(np.arange(count), at)), (other, np.array([at]))]

    monkeypatch.setattr(Site, "groups", wrong)
    check_named(every(network), {"simulator"}, image, element)


def test_one_wrong_gate_of_the_simulator_is_named() -> None:
    network = network_of(TruncatedSign(8))
    image, element = planted_at(network, 10)

    def close(relu: Any, _: Any, y: torch.Tensor) -> torch.Tensor:
        first = int(relu.address[1])
        if first <= image < first + len(y):
            y.flatten(1)[image - first, element] = 0.0
        return y

    stochastic_relus(network)["3"].register_forward_hook(close)
    check_named(every(network), {"simulator"}, image, element)


@pytest.mark.parametrize("way", ["circuit", "garbled"])
def test_one_wrong_gate_or_label_is_named(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = network_of(TruncatedSign(8))
    image, element = planted_at(network, 10)
    honest = compare_piece
    planted: list[int | None] = [None]

    def here(site: Site, x: Any, applied: Any, first: int, draw: int, bench: Bench, **options: Any) -> Any:
        at = image * 144 + element - first
        planted[0] = at if site.number == 1 and 0 <= at < len(x) else None
        return honest(site, x, applied, first, draw, bench, **options)

    def wrong_gate(self: Any, a: Any, b: Any, number: int) -> Any:
        result = a & b
        if planted[0] is not None and number == 22:  # the last of 23: the highest bit decides
            result[planted[0] // 8] ^= 1 << 7 - planted[0] % 8
        return result

    def evaluate_with_a_wrong_label(evaluator: Any, circuit: Any, tables: Any, labels: Any, own: Any) -> Any:
        if planted[0] is not None:
            own[3, planted[0], 1] ^= np.uint64(1 << 20)
        return evaluator.evaluate(circuit, tables, labels, own)

    monkeypatch.setattr("circa_train.verify.streaming.compare_piece", here)
    if way == "circuit":
        monkeypatch.setattr(piece._Packed, "conjunction", wrong_gate)
    else:
        honest_bench = Bench.__init__

        def bench(self: Bench) -> None:
            honest_bench(self)
            real = self.evaluator

            class Wrong:
                def evaluate(self, *arguments: Any) -> Any:
                    return evaluate_with_a_wrong_label(real, *arguments)

            self.evaluator = Wrong()  # type: ignore[assignment]

        monkeypatch.setattr(Bench, "__init__", bench)
    check_named(every(network, workers=1), {way}, image, element)


@pytest.mark.slow
def test_four_wrong_elements_among_a_hundred_million_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask, a k, a gate of the circuit and a label, one element each."""
    images, side = 100, 1000
    places = {"mask": (7, 123_456), "k": (31, 999_999), "gate": (62, 0), "label": (99, 765_432)}
    numbers = {what: image * side * side + element for what, (image, element) in places.items()}
    model = nn.Sequential(nn.ReLU(), nn.AvgPool2d(side), nn.Flatten(), nn.Linear(1, 2))
    network = with_stochastic_relus(model, TruncatedSign(8), frac_bits=12, seed=3)
    honest_masks, honest_groups, honest_piece = consecutive_masks, Site.groups, compare_piece
    honest_bench, here = Bench.__init__, dict[str, int]()

    def masks(spec: SignTest, first: int, count: int, **address: Any) -> Any:
        t, at = honest_masks(spec, first, count, **address), numbers["mask"] - first
        if 0 <= at < count:
            t[at] = spec.prime - 1
        return t

    def groups(site: Site, first: int, count: int) -> Any:
        at = numbers["k"] - first
        if not 0 <= at < count:
            return honest_groups(site, first, count)
        other = TruncatedSign(30)
        site.circuits[other] = Site("0", 0, 3, other, side * side, 1).circuits[other]
        return [(site.spec, np.delete(np.arange(count), at)), (other, np.array([at]))]

    def compared(site: Site, x: Any, applied: Any, first: int, *rest: Any, **options: Any) -> Any:
        here.clear()
        here.update({what: n - first for what, n in numbers.items() if 0 <= n - first < len(x)})
        here["done"] = 0
        return honest_piece(site, x, applied, first, *rest, **options)

    def conjunction(self: Any, a: Any, b: Any, number: int) -> Any:
        result = a & b
        if "gate" in here and number == 22:
            result[here["gate"] // 8] ^= 1 << 7 - here["gate"] % 8
        return result

    def bench(self: Bench) -> None:
        honest_bench(self)
        real = self.evaluator

        class Wrong:
            def evaluate(self, circuit: Any, tables: Any, labels: Any, own: Any) -> Any:
                at = here.get("label", -1) - here["done"]
                here["done"] += own.shape[1]
                if 0 <= at < own.shape[1]:
                    own[3, at, 1] ^= np.uint64(1 << 20)
                return real.evaluate(circuit, tables, labels, own)

        self.evaluator = Wrong()  # type: ignore[assignment]

    monkeypatch.setattr(piece, "consecutive_masks", masks)
    monkeypatch.setattr(Site, "groups", groups)
    monkeypatch.setattr("circa_train.verify.streaming.compare_piece", compared)
    monkeypatch.setattr(piece._Packed, "conjunction", conjunction)
    monkeypatch.setattr(Bench, "__init__", bench)
    inputs = torch.full((1, 1, side, side), 100.0)
    batches = [(inputs, torch.zeros(1, dtype=torch.long), image) for image in range(images)]
    report = verify_every(network, batches, ["0"], images=images, workers=1)
    assert report.compared == 100_000_000
    assert report.mismatches == 4
    found = {(each.image, each.element): each.way for each in report.tallies["0"].named}
    ways = {"mask": "simulator", "k": "simulator", "gate": "circuit", "label": "garbled"}
    assert found == {places[what]: way for what, way in ways.items()}


def test_what_goes_on_through_the_network_is_the_circuit_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """Circuits that always answer 0 give the predictions of a network whose ReLUs answer 0."""
    network = network_of(TruncatedSign(8))
    monkeypatch.setattr(piece, "_garbled", lambda relu, server, client, bench: np.zeros(server.shape[1]))
    report = every(network)
    assert report.mismatches > 0
    bias = network.get_submodule("5").bias
    assert set(report.predictions.tolist()) == {int(bias.argmax())}
    assert len(report.tallies["1"].named) == tally.NAMED


# ---------------------------------------------------------------------------- pieces and memory


@pytest.mark.parametrize("relus", [1, 144, tally.LEAF - 1, tally.LEAF, tally.LEAF + 1, 3 * tally.LEAF + 5])
def test_pieces_and_leaves_cover_everything_once(relus: int) -> None:
    site = Site("s", 0, 0, TruncatedSign(1), relus, 1)
    at, leaves = 0, []
    for first, count in site.pieces(5):
        assert first == at
        assert count <= tally.LEAF
        at += count
        leaves += list(site.leaves(first, count))
    assert at == 5 * relus
    assert sum(count for _, count, _ in leaves) == 5 * relus
    assert all(first // relus == image for first, _, image in leaves)
    assert [first % relus % tally.LEAF for first, _, _ in leaves] == [0] * len(leaves)


def test_memory_is_that_of_a_piece_whatever_the_size_of_the_site() -> None:
    def peak(images: int) -> int:
        torch.manual_seed(0)
        model = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        network = with_stochastic_relus(model, TruncatedSign(12), frac_bits=16)
        z = torch.randn(images, 4, 64, 64)
        batches = [(z, None, 0)]
        verify_every(network, batches, ["0"], images=images, workers=2)  # memory that stays is taken here
        tracemalloc.start()
        try:
            verify_every(network, batches, ["0"], images=images, workers=2)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    small, large = peak(4), peak(32)
    assert large < 1.25 * small
    assert large < 2 * 2**20 * 16  # two threads, each with a piece: 2^14 sign tests of a kilobyte


# ---------------------------------------------------------------------------- stopped and killed


def test_finished_batches_are_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = network_of(TruncatedSign(8))
    whole = every(network, ledger=Ledger(tmp_path, "mine"))
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"{n:06d}.json" for n in range(3)]
    calls: list[int] = []
    honest = compare_piece

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        return honest(*arguments, **options)

    monkeypatch.setattr("circa_train.verify.streaming.compare_piece", counted)
    again = every(network, ledger=Ledger(tmp_path, "mine"))
    assert outcome(again) == outcome(whole)
    assert not calls
    (tmp_path / "000001.json").unlink()
    assert outcome(every(network, ledger=Ledger(tmp_path, "mine"))) == outcome(whole)
    assert len(calls) == 2


@pytest.mark.parametrize("damage", ["identity", "inputs", "content", "cut off", "another batch"])
def test_a_stale_or_damaged_batch_is_never_used(damage: str, tmp_path: Path) -> None:
    Ledger(tmp_path, "mine").write(3, "inputs", {"a": 1})
    file = tmp_path / "000003.json"
    assert Ledger(tmp_path, "mine").find(3, "inputs") == {"a": 1}
    if damage == "content":
        file.write_text(file.read_text().replace('"a": 1', '"a": 2'))
    elif damage == "cut off":
        file.write_text(file.read_text()[:-9])
    elif damage == "another batch":
        file.rename(tmp_path / "000004.json")
    ledger = Ledger(tmp_path, "another" if damage == "identity" else "mine")
    batch = 4 if damage == "another batch" else 3
    assert ledger.find(batch, "others" if damage == "inputs" else "inputs") is None


KILLED = """
import json, sys, time
sys.path[:0] = [{folder!r}, {root!r}]
from pathlib import Path
from test_verify_every import Bench, TruncatedSign, Ledger, every, network_of, outcome
from circa_train.verify import streaming
honest = streaming.compare_piece
def slowly(*arguments, **options):
    time.sleep(0.01)
    return honest(*arguments, **options)
streaming.compare_piece = slowly
streaming.Bench = lambda: Bench("numpy")  # nothing to compile, four times over
report = every(network_of(TruncatedSign(8)), 24, 2, ledger=Ledger(Path(sys.argv[1]), "mine"))
Path(sys.argv[2]).write_text(json.dumps(outcome(report)))
"""


@pytest.mark.slow
def test_being_killed_at_random_moments_changes_nothing(tmp_path: Path) -> None:
    wanted = json.loads(json.dumps(outcome(every(network_of(TruncatedSign(8)), 24, 2))))
    code = KILLED.format(folder=str(Path(__file__).parent), root=str(Path(__file__).parents[1]))
    ledger, result = tmp_path / "batches", tmp_path / "result.json"
    command = [sys.executable, "-c", code, str(ledger), str(result)]
    moments = random.Random(7)
    for kill in range(3):
        process = subprocess.Popen(command)
        enough = moments.randint(1, 3) + (len(list(ledger.glob("0*.json"))) if ledger.is_dir() else 0)
        deadline = time.monotonic() + 600
        while process.poll() is None and time.monotonic() < deadline:
            if len(list(ledger.glob("0*.json"))) >= enough:
                break
            time.sleep(0.002)
        time.sleep(moments.random() * 0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not result.exists(), f"kill {kill} came too late to test anything"
        assert list(ledger.glob("0*.json"))
    subprocess.run(command, check=True, timeout=600)
    assert json.loads(result.read_text()) == wanted


# ---------------------------------------------------------------------------- rates


def test_the_bound_holds_for_the_exact_binomial_law() -> None:
    n = 40
    for q in (0.001, 0.1, 0.5):
        law = [math.comb(n, s) * q**s * (1 - q) ** (n - s) for s in range(n + 1)]
        for s in range(n + 1):
            far = sum(p for other, p in enumerate(law) if abs(other - n * q) >= abs(s - n * q) - 1e-12)
            assert far <= rate(s, n * q, n * q * (1 - q)).bound + 1e-12


def test_a_true_law_is_not_doubted_and_a_wrong_one_is() -> None:
    found = every(network_of(TruncatedSign(12)), 40)
    judged = verdict(found.tallies)
    assert judged.numbers > 0
    assert not judged.doubted
    assert all(abs(each.z or 0) < 6 for each in rates(found.tallies["1"]).values())
    wrong = replace(found.tallies["1"], expected={k: 2 * v for k, v in found.tallies["1"].expected.items()})
    judged = verdict({"1": wrong, "3": found.tallies["3"]})
    assert judged.doubted
    assert judged.site == "1"
    assert rate(0, 0.0, 0.0).bound == 1.0
    assert rate(1, 0.0, 0.0).bound == 0.0  # what cannot happen did


def test_tallies_survive_being_written_down_and_the_table_has_a_line_per_site() -> None:
    found = every(network_of(TruncatedSign((2, 8, 11, 4)))).tallies
    for each in found.values():
        assert SiteTally.from_dict(json.loads(json.dumps(each.to_dict()))) == each
    head, *lines = every_table(found).splitlines()
    assert head.split()[:2] == ["site", "compared"]
    assert [line.split()[:2] for line in lines] == [["1", "1,440"], ["3", "1,440"]]


def test_what_is_not_to_be_verified_is_refused() -> None:
    network = network_of({"1": TruncatedSign(8), "3": NoFault()})
    assert every(network, sites=["1"]).mismatches == 0
    with pytest.raises(ValueError, match="an exact ReLU"):
        every(network)
    with pytest.raises(ValueError, match="nothing to verify"):
        every(network, sites=[])
