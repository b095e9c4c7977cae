"""The search: bisection, greed and verdicts as pure logic; then planted answers, resumption, and independent
evaluation.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from circa_train import (
    BitWindow,
    NoFault,
    TruncatedSign,
    UniformFault,
    expected_faults,
    with_stochastic_relus,
)
from circa_train.cost import gates_saved, network_cost
from circa_train.data import DataSplits, ImageSet
from circa_train.evaluation import Evaluation, evaluate
from circa_train.fixed_point import to_fixed
from circa_train.jobs.faults import read_fault_file
from circa_train.nn.control import draw_state, set_draw, site_inputs, stochastic_relus
from circa_train.search import (
    Answer,
    SearchSettings,
    fault_file,
    search_truncation,
    summary,
    write_fault_file,
)
from circa_train.search import judging as judging_module
from circa_train.search.allocation import Tables, greedy_path, last_accepted
from circa_train.search.harm import site_gains, site_laws
from circa_train.search.judging import OVER, UNDECIDED, WITHIN, verdict
from circa_train.search.store import Store

POSZERO = TruncatedSign(0)
SETTINGS = SearchSettings(budget=0.05, draws=3, max_draws=12, trials=4, images=60)


class Levels(nn.Module):
    """Four classes, told by which of four inputs is large; two more sites that matter hardly and not at all.

    The classes' pre-activations are 0.8 at frac_bits 16, so 2^16 is where truncation zeroes them: k = 15 is
    harmless, and at k = 18 nearly every answer is lost. ``faint`` adds a hundredth of a noise, ``dead`` adds
    nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.main, self.faint, self.dead = nn.ReLU(), nn.ReLU(), nn.ReLU()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1) * self.scale
        classes = self.main(x[:, :4])
        side = self.faint(x[:, 4:]).repeat(1, 8)
        return classes + 0.01 * side[:, :4] + 0.0 * self.dead(side - 0.2)[:, :4]


class OneSite(Levels):
    """The same without the sites that could be treated differently."""

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x.flatten(1)[:, :4] * self.scale)


def level_images(count: int, seed: int) -> ImageSet:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (count,), generator=generator)
    small = torch.randint(0, 40, (count, 4), generator=generator)
    pixels = torch.cat(
        [F.one_hot(labels, 4) * 164 + small, torch.randint(0, 255, (count, 12), generator=generator)], 1
    )
    return ImageSet(pixels.to(torch.uint8).reshape(count, 1, 4, 4), labels)


def make_splits(validation: int = 100, test: int = 100) -> DataSplits:
    train, held_out, final = level_images(4, 0), level_images(validation, 1), level_images(test, 2)
    return DataSplits("levels", train, held_out, final, ("a", "b", "c", "d"), mean=(0.0,), std=(1.0,))


def converted(model: nn.Module | None = None, seed: int = 3) -> nn.Module:
    return with_stochastic_relus(model or Levels(), NoFault(), frac_bits=16, seed=seed).eval()


@pytest.mark.parametrize("count", [1, 2, 7, 31])
def test_last_accepted_finds_every_edge_from_every_guess(count: int) -> None:
    for edge, low, high in itertools.product(range(-1, count), range(-2, count + 2), range(-2, count + 2)):
        calls: list[int] = []

        def accept(index: int, edge: int = edge, calls: list[int] = calls) -> bool:
            calls.append(index)
            return index <= edge

        assert last_accepted(accept, count, low, high) == (edge if edge >= 0 else None)
        assert len(calls) == len(set(calls)), "an index is tested once"
        assert all(0 <= index < count for index in calls)
        assert len(calls) <= 2 * count.bit_length() + 2


def tables_of(harm: list[list[float]], relus: list[int]) -> Tables:
    bits = len(harm[0])
    gates = tuple(tuple(n * (bits - k) for k in range(bits)) for n in relus)
    return Tables(gates, tuple(map(tuple, harm)))


def test_greed_is_best_on_its_path() -> None:
    """For convex harm, no allocation beats the path's in both gates and harm: against all of them,
    enumerated.
    """
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        weights = torch.rand(3, generator=generator).tolist()
        relus = torch.randint(1, 9, (3,), generator=generator).tolist()
        tables = tables_of([[w * 4**k for k in range(5)] for w in weights], relus)
        path = greedy_path(tables)
        assert path[0] == (0, 0, 0)
        assert path[-1] == (4, 4, 4)
        assert all(
            sum(b) - sum(a) == 1 and all(y >= x for x, y in zip(a, b, strict=True))
            for a, b in itertools.pairwise(path)
        )
        for ks, other in itertools.product(path, itertools.product(range(5), repeat=3)):
            better = tables.total_gates(other) < tables.total_gates(ks) and tables.total_harm(
                other
            ) < tables.total_harm(ks)
            assert not better, (ks, other)


def test_harm_that_falls_does_not_mislead() -> None:
    tables = tables_of([[1.0, 3.0, 2.0, 5.0]], [1])
    assert tables.harm == ((1.0, 3.0, 3.0, 5.0),)
    harmless = tables_of([[0.0, 0.0, 0.0], [0.0, 1.0, 2.0]], [1, 100])
    assert greedy_path(harmless)[:3] == [(0, 0), (1, 0), (2, 0)], "what does no harm comes first"
    with pytest.raises(ValueError, match="one value for every k"):
        Tables(((1, 2),), ((0.0,),))


def test_verdicts() -> None:
    steady = (0.90, 0.90, 0.91, 0.90)
    assert verdict(Evaluation(steady, 1000), exact=0.905, budget=0.02) == WITHIN
    assert verdict(Evaluation(steady, 1000), exact=0.99, budget=0.02) == OVER
    assert verdict(Evaluation(steady, 1000), exact=0.9225, budget=0.02) == UNDECIDED
    assert verdict(Evaluation((0.5,), 1000), exact=0.99, budget=0.02) == UNDECIDED, "one draw says nothing"
    assert verdict(Evaluation((0.9, 0.9), 10), exact=0.9, budget=0.01) == UNDECIDED, (
        "agreement of two leaves room"
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
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            SearchSettings(**wrong)  # type: ignore[arg-type]


def test_the_law_foretells_faults_and_their_size() -> None:
    network, splits = converted(), make_splits()
    laws = site_laws(network, splits.validation, POSZERO, mean=splits.mean, std=splits.std)
    seen: dict[str, Tensor] = {}
    with site_inputs(network, seen.__setitem__):
        network(splits.validation.images.float() / 255)
    for law in laws:
        x, _ = to_fixed(seen[law.site], 16, POSZERO.prime)
        for k in (0, 15, 17):
            faults = expected_faults(x, TruncatedSign(k)).faults / x.numel()
            assert law.faults[k] == pytest.approx(faults, rel=1e-4), "the same up to float32 normalisation"
        assert law.error[17] <= law.faults[17] * float(seen[law.site].square().max()) + 1e-12
    gains = site_gains(
        network,
        splits.validation,
        laws,
        TruncatedSign(16),
        mean=splits.mean,
        std=splits.std,
        batch_size=50,
        store=Store(),
    )
    main, faint, dead = gains
    assert main > 100 * faint > 0
    assert dead == 0


def test_a_planted_answer_is_found_and_reproduced(tmp_path: Path) -> None:
    network, splits = converted(), make_splits()
    lines: list[str] = []
    result = search_truncation(network, splits, POSZERO, SETTINGS, report=lines.append)
    k, ks = result.uniform.ks[0], dict(zip(["main", "faint", "dead"], result.chosen.ks, strict=True))
    assert 13 <= k <= 16
    assert ks["dead"] == 30
    assert ks["faint"] > ks["main"] >= k
    assert result.beats_uniform
    assert result.candidates > 90 > 20 > result.runs
    assert result.chosen_test.within
    assert {line.split(":")[0] for line in lines} >= {"validation", "test"}

    saved = gates_saved(result.sites, {n: TruncatedSign(v) for n, v in ks.items()}, TruncatedSign(k))
    answer = Answer.of(result, SETTINGS, seconds=lambda relus, gates: 1e-6 * gates)
    assert answer.uniform.and_gates - answer.chosen.and_gates == saved > 0
    assert answer.untruncated.and_gates == network_cost(result.sites, POSZERO, accounting="tables").and_gates
    record = json.loads(json.dumps(answer.record(), allow_nan=False))
    assert record["saved"]["and_gates"] == saved
    assert record["confirmed"] is True
    assert [row["k"] for row in record["allocation"]] == list(result.chosen.ks)
    text = summary(answer, tmp_path / "fault.yaml")
    assert "confirmed" in text
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
    everything = judging_module.Judge(
        converted(OneSite()), splits.validation, "validation", mean=splits.mean, std=splits.std, spec=POSZERO,
        settings=SETTINGS, store=Store(), report=lambda _: None,
    )  # fmt: skip
    accepted = [k for k in range(31) if everything((k,)).within]
    assert accepted == list(range(len(accepted)))
    for first_k in (0, 12, 30):
        settings = SearchSettings(**{**vars(SETTINGS), "first_k": first_k})
        result = search_truncation(converted(OneSite()), splits, POSZERO, settings)
        assert result.uniform.ks == (accepted[-1],)


def test_nothing_beats_uniform_where_there_is_one_site(tmp_path: Path) -> None:
    result = search_truncation(converted(OneSite()), make_splits(), POSZERO, SETTINGS)
    assert not result.beats_uniform
    assert result.chosen == result.uniform
    text = summary(Answer.of(result, SETTINGS, seconds=lambda relus, gates: 0.0), tmp_path)
    assert "beats uniform k" in text
    assert "the answer is uniform k" in text


def test_only_uniform_if_so_asked() -> None:
    settings = SearchSettings(**{**vars(SETTINGS), "per_site": False})
    result = search_truncation(converted(), make_splits(), POSZERO, settings)
    assert result.laws == ()
    assert result.chosen == result.uniform
    assert (
        Answer.of(result, settings, seconds=lambda relus, gates: 0.0).record()["allocation"][0][
            "expected_faults"
        ]
        is None
    )


def test_negpass_is_searched_too() -> None:
    result = search_truncation(converted(), make_splits(), TruncatedSign(0, "negpass"), SETTINGS)
    assert result.spec.mode == "negpass"
    assert result.chosen.within


def test_a_search_cut_off_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits, path = make_splits(), tmp_path / "measured.json"
    whole = search_truncation(converted(), splits, POSZERO, SETTINGS)
    calls: list[int] = []
    allowed = 17

    def counted(*args: object, **options: object) -> Evaluation:
        if len(calls) == allowed:
            raise KeyboardInterrupt
        calls.append(1)
        return evaluate(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(judging_module, "evaluate", counted)
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
        assert store.accuracies("validation 1") == []
        store.add_accuracy("validation 1", 0.5)
        assert Store(path, "a").accuracies("validation 1") == [0.5]
        assert Store(path, "b").accuracies("validation 1") == []


def test_the_network_comes_back_as_it_was() -> None:
    network = converted()
    before = {"main": TruncatedSign(3), "faint": NoFault(), "dead": TruncatedSign(5, "negpass")}
    for name, relu in stochastic_relus(network).items():
        relu.set_spec(before[name])
    set_draw(network, 9, 4)
    search_truncation(network, make_splits(), POSZERO, SETTINGS)
    assert {name: relu.spec for name, relu in stochastic_relus(network).items()} == before
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
