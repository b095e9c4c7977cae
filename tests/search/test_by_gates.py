"""An allocation for a number of AND gates: the law alone chooses it, and nothing is confirmed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor, nn

from circa_train import (
    NoFault,
    TruncatedSign,
    with_stochastic_relus,
)
from circa_train.data import DataSplits
from circa_train.evaluation import evaluate, one_draw
from circa_train.jobs.faults import read_fault_file
from circa_train.nn import relu_sites
from circa_train.nn.control import stochastic_relus
from circa_train.nn.site_values import site_values
from circa_train.search import (
    Answer,
    SearchSettings,
    allocate_gates,
    search_truncation,
    summary,
    write_fault_file,
)
from circa_train.search import by_gates as by_gates_module
from circa_train.search import judging as judging_module
from circa_train.search.allocation import Tables, greedy_path
from circa_train.search.choices import by_the_law
from circa_train.search.harm import tables_of as tables_by_law
from tests.search.levels import (
    POSZERO,
    SETTINGS,
    Levels,
    converted,
    level_images,
    make_splits,
)

GATES = SearchSettings(gates=11, draws=3, images=60)


def path_by_the_law(network: nn.Module, splits: DataSplits) -> tuple[Tables, list[tuple[int, ...]]]:
    """The tables and the greedy path of a network, put together from the parts."""
    seen = site_values(network, [splits.train.images[:60].float() / 255], importance=True)
    choices = by_the_law(seen, POSZERO, first_k=GATES.first_k, headroom_bits=GATES.headroom_bits)
    tables = tables_by_law(choices, list(relu_sites(network, (1, 4, 4))))
    return tables, greedy_path(tables)


@pytest.mark.parametrize("gates", [1, 1.5, 7.3, 11, 20, 31, 99])
def test_the_law_allocates_a_number_of_gates(gates: float) -> None:
    """The answer has as many at most, and the step before it on the path of least harm has more."""
    network, splits = converted(), replace(make_splits(), train=level_images(60, 0))
    found = allocate_gates(network, splits, POSZERO, replace(GATES, gates=gates))
    tables, path = path_by_the_law(network, splits)
    limit = gates * sum(relus for _, relus in found.sites)
    place = path.index(found.chosen.ks)
    assert tables.total_gates(path[place]) <= limit
    assert place == 0 or tables.total_gates(path[place - 1]) > limit
    assert (found.candidates, found.runs) == (len(path), 1)
    assert found.chosen.specs == found.chosen_test.specs
    assert tables.total_gates((found.same_k,) * 3) <= limit
    assert found.same_k == 0 or tables.total_gates((found.same_k - 1,) * 3) > limit
    assert {relu.spec for relu in stochastic_relus(network).values()} == {NoFault()}, "as it was"
    assert {relu.frac_bits for relu in stochastic_relus(network).values()} == {16}


def test_an_allocation_of_gates_says_what_was_measured_and_confirms_nothing(tmp_path: Path) -> None:
    splits, lines = replace(make_splits(), train=level_images(60, 0)), list[str]()
    found = allocate_gates(converted(), splits, POSZERO, GATES, report=lines.append)
    answer = Answer.of(found, GATES, seconds=lambda relus, gates: 1e-6 * gates)
    record = json.loads(json.dumps(answer.record(), allow_nan=False))
    unsaid = ("budget", "confirmed", "uniform", "scaled", "saved", "beats_uniform", "k", "margin")
    assert {record[key] for key in unsaid} == {None}
    assert record["gates"] == 11
    assert record["chosen"]["and_gates"] <= 11 * record["relus"]
    tables, _ = path_by_the_law(converted(), splits)
    assert record["harm"] == pytest.approx(tables.total_harm(found.chosen.ks), rel=1e-5)  # x / 255 rounds
    for split in ("validation", "test"):
        said = record["chosen"][split]
        assert said["verdict"] == "measured"
        assert said["loss"]["low"] <= said["loss"]["mean"] <= said["loss"]["high"]
        assert len(said["accuracy"]["draws"]) == GATES.draws
    text = summary(answer, tmp_path / "fault.yaml")
    assert "CONFIRMED" not in text
    assert "AND gates per sign test on average, at most 11 asked" in text
    assert "test images: k = " in text
    assert "with exact ReLUs" in text
    assert "divergence" in lines[0]

    specs, frac_bits = read_fault_file(write_fault_file(tmp_path / "fault.yaml", answer, [text]))
    fresh = with_stochastic_relus(Levels(), specs, frac_bits=frac_bits, seed=3)
    for judged, images in ((found.chosen, splits.validation), (found.chosen_test, splits.test)):
        again = evaluate(fresh, images, mean=splits.mean, std=splits.std, draws=GATES.draws, batch_size=7)
        assert again == judged.evaluation


def test_gates_of_the_network_as_it_is_and_of_one_k() -> None:
    """``joint`` and ``per_site`` mean what they mean in a search."""
    splits = replace(make_splits(), train=level_images(60, 0))
    plain = allocate_gates(converted(), splits, TruncatedSign(0, "negpass"), replace(GATES, joint=False))
    assert plain.chosen.choices.name == "as it is"
    assert {spec.mode for spec in plain.chosen.specs.values()} == {"negpass"}
    assert plain.chosen.choices.frac_bits_of(plain.chosen.ks) == 16
    assert len(set(plain.chosen.ks)) > 1
    same = allocate_gates(converted(), splits, POSZERO, replace(GATES, per_site=False))
    assert same.chosen.ks == (same.same_k,) * 3 == (20,) * 3
    assert same.candidates == 31


def test_an_allocation_of_gates_cut_off_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits, path = replace(make_splits(), train=level_images(60, 0)), tmp_path / "measured.json"
    whole = allocate_gates(converted(), splits, POSZERO, GATES)
    left = [3]  # the exact network and two draws

    def counted(*args: object) -> Tensor:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return one_draw(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(judging_module, "one_draw", counted)
    with pytest.raises(KeyboardInterrupt):
        allocate_gates(converted(), splits, POSZERO, GATES, store_path=path, identity="a")
    left[0] = 1 + GATES.draws + 1 - 3 + GATES.draws  # what is missing on validation, and all on test images
    assert allocate_gates(converted(), splits, POSZERO, GATES, store_path=path, identity="a") == whole
    assert left == [0]


def test_gates_out_of_reach_and_what_goes_without_a_budget() -> None:
    splits = make_splits()
    with pytest.raises(ValueError, match=r"gates = 0\.5: .* 1 AND gate at least, at k = 30; give gates=1"):
        allocate_gates(converted(), splits, POSZERO, replace(GATES, gates=0.5))
    with pytest.raises(ValueError, match="gates = None"):
        allocate_gates(converted(), splits, POSZERO, SETTINGS)
    with pytest.raises(ValueError, match=r"gates = 11: .* call allocate_gates"):
        search_truncation(converted(), splits, POSZERO, GATES)
    for name, value in (("budget", 0.02), ("margin", 1.0), ("trials", 2), ("max_draws", 9)):
        with pytest.raises(ValueError, match=f"{name} = {value} and gates = 11: .*leave out one"):
            replace(GATES, **{name: value})  # type: ignore[arg-type]
    assert replace(GATES, draws=60).looks == [60]
    tables = Tables(((2, 1),), ((0.0, 1.0),))
    with pytest.raises(ValueError, match="no allocation has at most 0.5"):
        by_gates_module.first_within(tables, greedy_path(tables), 0.5)
