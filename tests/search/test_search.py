"""The search: what the law foretells; then planted answers, resumption, and independent evaluation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from circa_train import (
    BitWindow,
    NoFault,
    TruncatedSign,
    UniformFault,
    expected_faults,
    fault_probability,
    with_stochastic_relus,
)
from circa_train.cost import gates_saved, network_cost
from circa_train.diagnosis import site_sensitivity
from circa_train.evaluation import evaluate, one_draw
from circa_train.fixed_point import to_fixed
from circa_train.jobs.faults import read_fault_file
from circa_train.nn import relu_sites
from circa_train.nn.control import draw_state, set_draw, stochastic_relus
from circa_train.nn.scales import SYSTEMATIC
from circa_train.nn.site_values import SiteValues, site_values
from circa_train.search import (
    Answer,
    SearchSettings,
    fault_file,
    search_truncation,
    summary,
    write_fault_file,
)
from circa_train.search import judging as judging_module
from circa_train.search.choices import as_it_is, by_the_law
from circa_train.search.harm import tables_of as tables_by_law
from circa_train.search.store import Store
from tests.search.levels import (
    PLAIN,
    POSZERO,
    SETTINGS,
    Levels,
    OneSite,
    converted,
    level_images,
    make_splits,
)


def test_settings() -> None:
    assert SearchSettings(draws=5, max_draws=40).looks == [5, 10, 20, 40]
    assert SearchSettings(draws=5, max_draws=12).looks == [5, 10, 12]
    assert SearchSettings(draws=4, max_draws=4).looks == [4]
    for wrong in (
        {"budget": 0.0},
        {"budget": 1.0},
        {"draws": 1},
        {"draws": 9, "max_draws": 8},
        {"trials": -1},
        {"images": 0},
        {"gates": 0},
        {"gates": -3.0},
        {"gates": float("nan")},
        {"gates": float("inf")},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            SearchSettings(**wrong)  # type: ignore[arg-type]


def test_the_law_foretells_faults_and_their_size() -> None:
    network, splits = converted(), make_splits()
    recorded = site_values(network, [splits.validation.images.float() / 255])
    choices = as_it_is(network, recorded, POSZERO)
    for place, site in enumerate(choices.sites):
        z = recorded[site].values
        x, _ = to_fixed(z, 16, POSZERO.prime)
        for k in (0, 15, 17):
            faults = expected_faults(x, TruncatedSign(k)).faults / x.numel()
            assert choices.faults_of((k,) * 3, recorded)[place] == pytest.approx(faults, rel=1e-12)
        chance = fault_probability(x, TruncatedSign(17))
        wrong = torch.where(x == 0, (z > 0).double(), chance)  # PosZero loses what rounds to 0
        damage = float((z**2 * (wrong + SYSTEMATIC * wrong**2)).mean())
        assert choices.errors[place][17] == pytest.approx(damage, rel=1e-12)


def test_harm_foretells_how_far_the_answers_move() -> None:
    """Against the measured divergence of one site's faults. At k = 0 they are wraps, 1% of the sign tests:
    about 1800 in 100 draws, a standard error of 3%; the classes drawn for 400 images add 6%, errors that are
    not small and the weight of the systematic part 10%. Half or twice the harm would not pass.
    """
    images = level_images(400, 1)
    network = with_stochastic_relus(Levels(), NoFault(), frac_bits=25, seed=3).eval()
    seen = site_values(network, [images.images.float() / 255], importance=True)
    choices = as_it_is(network, seen, POSZERO)
    sites = list(relu_sites(network, (1, 4, 4)))
    harm = dict(zip(choices.sites, tables_by_law(choices, sites).harm, strict=True))
    assert harm["main"][16] > 100 * harm["faint"][16] > 0
    assert harm["dead"] == (0.0,) * 31
    choices.put(network, (0, 0, 0))
    (row,) = site_sensitivity(network, images, mean=(0.0,), std=(1.0,), draws=100, sites=["main"])
    assert row.divergence == pytest.approx(harm["main"][0], rel=0.3)


def test_importance_is_the_squared_gradient_of_one_drawn_class() -> None:
    """Against autograd by hand, all values of a small site; and parameters keep the gradients they had."""
    network = converted(OneSite())
    network.scale.grad = torch.full((1,), 7.0)  # type: ignore[union-attr]
    images = level_images(20, 0).images.float() / 255
    found = site_values(network, [images], importance=True)["main"]
    x = images.flatten(1)[:, :4]
    probability = x.relu().softmax(1)
    drawn = torch.multinomial(probability, 1, generator=torch.Generator().manual_seed(0))
    gradient = F.one_hot(drawn[:, 0], 4) - probability  # of log softmax at the drawn class
    assert found.importance is not None
    torch.testing.assert_close(found.importance[:, :20], (gradient**2).double().T)
    torch.testing.assert_close(
        found.importance[:, 20:], found.importance[:, :20].mean(1, keepdim=True).repeat(1, 2)
    )
    assert network.scale.grad == 7.0  # type: ignore[union-attr]
    assert site_values(network, [images])["main"].importance is None


def test_a_site_that_no_gradient_comes_back_to_is_named() -> None:
    network = converted(OneSite())
    original = network.main.forward
    network.main.forward = lambda z: original(z.detach())  # type: ignore[method-assign,operator]
    with pytest.raises(ValueError, match=r"site main: no gradient comes back .* torch\.no_grad"):
        site_values(network, [level_images(4, 0).images.float() / 255], importance=True)


def test_a_planted_answer_is_found_and_reproduced(tmp_path: Path) -> None:
    network, splits = converted(), make_splits()
    lines: list[str] = []
    result = search_truncation(network, splits, POSZERO, PLAIN, report=lines.append)
    k, ks = result.uniform.ks[0], dict(zip(["main", "faint", "dead"], result.chosen.ks, strict=True))
    assert 13 <= k <= 16
    assert ks["dead"] == 30
    assert ks["faint"] > ks["main"] >= k
    assert result.beats_uniform
    assert result.candidates > 90 > 20 > result.runs
    assert result.chosen_test.within
    assert {line.split(":")[0] for line in lines} >= {"validation", "test"}

    saved = gates_saved(result.sites, {n: TruncatedSign(v) for n, v in ks.items()}, TruncatedSign(k))
    answer = Answer.of(result, PLAIN, seconds=lambda relus, gates: 1e-6 * gates)
    assert answer.uniform.and_gates - answer.chosen.and_gates == saved > 0
    assert answer.untruncated.and_gates == network_cost(result.sites, POSZERO, accounting="tables").and_gates
    record = json.loads(json.dumps(answer.record(), allow_nan=False))
    assert record["saved"]["and_gates"] == saved
    assert record["confirmed"] is True
    assert [row["k"] for row in record["allocation"]] == list(result.chosen.ks)
    harms = {row["site"]: row["harm"] for row in record["allocation"]}
    assert harms["main"] > harms["faint"] > harms["dead"] == 0
    assert {row["harm_k"] for row in record["allocation"]} == {k}
    text = summary(answer, tmp_path / "fault.yaml")
    assert "CONFIRMED" in text
    assert "NOT CONFIRMED" not in text
    assert "fewer gates than uniform k" in text

    written = write_fault_file(tmp_path / "fault.yaml", answer, [text])
    specs, frac_bits = read_fault_file(written)
    assert frac_bits == 16
    assert specs == {name: TruncatedSign(v) for name, v in ks.items()}
    fresh = with_stochastic_relus(Levels(), specs, frac_bits=frac_bits, seed=3)
    for judged, images in ((result.chosen, splits.validation), (result.chosen_test, splits.test)):
        draws = len(judged.evaluation.accuracies)
        again = evaluate(fresh, images, mean=splits.mean, std=splits.std, draws=draws, batch_size=7)
        assert again == judged.evaluation


def test_the_uniform_answer_against_every_k() -> None:
    """Bisection gives what judging all k gives, from any first guess."""
    splits = make_splits()
    network = converted(OneSite())
    seen = site_values(network, [splits.validation.images.float() / 255])
    everything = judging_module.Judge(
        network, splits.validation, "validation", as_it_is(network, seen, POSZERO), others=0,
        mean=splits.mean, std=splits.std, settings=PLAIN, store=Store(), report=lambda _: None,
    )  # fmt: skip
    accepted = [k for k in range(31) if everything((k,)).within]
    assert accepted == list(range(len(accepted)))
    for first_k in (0, 12, 30):
        settings = replace(PLAIN, first_k=first_k)
        result = search_truncation(converted(OneSite()), splits, POSZERO, settings)
        assert result.uniform.ks == (accepted[-1],)


def test_nothing_beats_uniform_where_there_is_one_site(tmp_path: Path) -> None:
    result = search_truncation(converted(OneSite()), make_splits(), POSZERO, PLAIN)
    assert not result.beats_uniform
    assert result.chosen == result.uniform
    asked = replace(PLAIN, joint=True)
    text = summary(Answer.of(result, asked, seconds=lambda relus, gates: 0.0), tmp_path)
    assert "beats uniform k" in text
    assert "the answer is uniform k" in text


def test_only_uniform_if_so_asked() -> None:
    result = search_truncation(converted(), make_splits(), POSZERO, replace(PLAIN, per_site=False))
    assert result.scaled is None
    assert result.chosen == result.uniform


def test_negpass_is_searched_too() -> None:
    result = search_truncation(converted(), make_splits(), TruncatedSign(0, "negpass"), PLAIN)
    assert result.spec.mode == "negpass"
    assert result.chosen.within


class Faint(Levels):
    """Of the classes, each is a channel with a scale of its own: 0.5 for the right one, -0.2 for others,
    times 1, 2^-2, 2^-4 and 2^-6, which is multiplied back behind the ReLU.
    """

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1) * self.scale - 0.3
        scales = torch.tensor([1.0, 0.25, 2.0**-4, 2.0**-6])
        return self.main(x[:, :4] * scales) / scales + 0.01 * self.faint(x[:, 4:]).repeat(1, 8)[:, :4]


def test_the_law_finds_the_scales_that_one_number_cannot_have() -> None:
    """As it is, the faintest class decides about k. With a scale for each, none does."""
    splits = replace(make_splits(), train=level_images(60, 0))
    result = search_truncation(converted(Faint()), splits, POSZERO, SETTINGS)
    assert result.scaled is not None
    assert result.uniform.ks[0] <= 10 < 20 <= result.scaled.ks[0]
    assert result.beats_uniform
    assert result.chosen.choices.name == "by the law"
    assert result.confirmed
    answer = Answer.of(result, SETTINGS, seconds=lambda relus, gates: 0.0)
    assert answer.uniform.and_gates > 1.5 * answer.chosen.and_gates
    record = json.loads(json.dumps(answer.record(), allow_nan=False))
    assert record["scaled"]["validation"]["ks"] == f"k = {result.scaled.ks[0]}"
    bits = record["allocation"][0]["frac_bits"]
    assert all(abs(b - bits[0] - 2 * place) <= 1 for place, b in enumerate(bits))
    specs, frac_bits = result.chosen.specs, result.chosen.choices.frac_bits_of(result.chosen.ks)
    fresh = with_stochastic_relus(Faint(), specs, frac_bits=frac_bits, seed=3)
    draws = len(result.chosen_test.evaluation.accuracies)
    again = evaluate(fresh, splits.test, mean=splits.mean, std=splits.std, draws=draws, batch_size=7)
    assert again == result.chosen_test.evaluation


def test_the_law_takes_the_mode_that_does_less() -> None:
    """Many small negative values: NegPass would pass them. Small positive ones: PosZero loses them."""
    below, above = torch.full((1, 500), -0.01), torch.full((1, 500), 0.01)
    for small, mode in ((below, "poszero"), (above, "negpass")):
        values = torch.cat([small, torch.tensor([[1.0, -1.0]])], 1).double()
        seen = {"site": SiteValues(values, values.abs().amax(1))}
        choices = by_the_law(seen, POSZERO, first_k=20, headroom_bits=2)
        assert choices.specs[0][25].mode == mode
        errors = choices.errors[0]
        assert errors[20] <= errors[25] <= errors[30]
        assert choices.frac_bits[0][3] == choices.frac_bits[0][20]


def test_a_search_cut_off_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits, path = make_splits(), tmp_path / "measured.json"
    whole = search_truncation(converted(), splits, POSZERO, SETTINGS)
    calls: list[int] = []
    allowed = 17

    def counted(*args: object) -> Tensor:
        if len(calls) == allowed:
            raise KeyboardInterrupt
        calls.append(1)
        return one_draw(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(judging_module, "one_draw", counted)
    with pytest.raises(KeyboardInterrupt):
        search_truncation(converted(), splits, POSZERO, SETTINGS, store_path=path, identity="a")
    stored = json.loads(path.read_text())
    assert sum(map(len, stored["accuracies"].values())) == 17
    allowed = 10**6
    calls.clear()
    resumed = search_truncation(converted(), splits, POSZERO, SETTINGS, store_path=path, identity="a")
    rest = len(calls)
    calls.clear()
    again = search_truncation(converted(), splits, POSZERO, SETTINGS, store_path=path, identity="a")
    assert again == resumed == whole
    assert not calls, "a finished search measures nothing again"
    search_truncation(converted(), splits, POSZERO, SETTINGS, store_path=path, identity="another checkpoint")
    assert len(calls) == rest + 17, "another identity uses nothing of it"


def test_a_damaged_store_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "measured.json"
    for damaged in ("", '{"format": 1, "identity": "a", "accura', '{"format": 99, "identity": "a"}', "[]"):
        path.write_text(damaged)
        store = Store(path, "a")
        assert store.draws("validation 1") == []
        right = torch.arange(11) % 3 == 0
        store.add_draw("validation 1", right)
        (kept,) = Store(path, "a").draws("validation 1")
        assert torch.equal(kept, right)
        assert Store(path, "b").draws("validation 1") == []


def test_the_network_comes_back_as_it_was() -> None:
    network = converted()
    before = {"main": TruncatedSign(3), "faint": NoFault(), "dead": TruncatedSign(5, "negpass")}
    for name, relu in stochastic_relus(network).items():
        relu.set_spec(before[name])
    set_draw(network, 9, 4)
    search_truncation(network, make_splits(), POSZERO, SETTINGS)
    assert {name: relu.spec for name, relu in stochastic_relus(network).items()} == before
    assert {relu.frac_bits for relu in stochastic_relus(network).values()} == {16}
    assert set(map(tuple, draw_state(network).values())) == {(9, 4)}


def test_refusals() -> None:
    splits = make_splits()
    with pytest.raises(ValueError, match="no stochastic ReLU"):
        search_truncation(Levels(), splits, POSZERO, SETTINGS)
    with pytest.raises(ValueError, match="0 validation and 100 test"):
        search_truncation(converted(), make_splits(validation=0), POSZERO, SETTINGS)
    coarse = with_stochastic_relus(Levels(), NoFault(), frac_bits=29, seed=3)
    with pytest.raises(ValueError, match=r"not even k = 0 is within .*lower fault\.frac_bits"):
        search_truncation(coarse, splits, POSZERO, SETTINGS)
    small = replace(SETTINGS, budget=0.001)
    with pytest.raises(ValueError, match=r"The margin alone is as large as the budget.*\(\d+ decide\)"):
        search_truncation(converted(), splits, POSZERO, small)


def test_fault_files_of_any_spec(tmp_path: Path) -> None:
    specs = {
        "a.b": TruncatedSign((1, 2), "negpass"),
        "c": NoFault(),
        "d#2": UniformFault(0.25),
        "e": BitWindow(2, 9),
    }
    path = tmp_path / "fault.yaml"
    path.write_text(fault_file(specs, 14, ["two\nlines"]))
    assert read_fault_file(path) == (specs, 14)
    assert path.read_text().startswith("# two\n# lines\n")
