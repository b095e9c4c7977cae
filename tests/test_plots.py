"""Figures are compared by the data they show, never by pixels."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from PIL import Image

from circa_train.fault import TruncatedSign, fault_count
from circa_train.field import DEFAULT_PRIME
from circa_train.plots import (
    MixedExperiments,
    accuracy_vs_bytes,
    accuracy_vs_k,
    accuracy_vs_rate,
    accuracy_vs_seconds,
    accuracy_vs_severity,
    fault_probability_curves,
    gallery,
    knee,
    pareto_front,
    save_figure,
    site_fault_rates,
    site_harm,
    site_heat_map,
    site_histograms,
    training_curves,
)
from circa_train.plots.pareto import answer_row
from circa_train.plots.series import Point, accuracy_points, pooled, where_it_moves
from circa_train.plots.style import series_style

#: k -> accuracy of a made-up network, before and after fine-tuning; exact ReLUs reach 0.95.
GOLDEN = {
    "poszero": {0: 0.95, 12: 0.945, 16: 0.942, 18: 0.80, 20: 0.30},
    "negpass": {0: 0.95, 12: 0.95, 16: 0.93, 18: 0.85, 20: 0.50},
}
TUNED = {18: 0.943, 20: 0.75}


def row(k: int = 12, accuracy: float = 0.9, **changed: Any) -> dict[str, Any]:
    base = {
        "kind": "evaluate", "run": f"runs/{k}", "model": "resnet8", "data": "digits", "split": "test",
        "checkpoint": "best.pt",
        "finetuned": False, "trained_k": None, "fault": "truncated_sign", "mode": "poszero", "k": k,
        "prime": DEFAULT_PRIME,
        "rate": None, "direction": None, "low": None, "high": None, "frac_bits": 5, "accuracy": accuracy,
        "draws": 5,
        "accuracy_low": accuracy - 0.01, "accuracy_high": accuracy + 0.01, "images": 359,
        "baseline_accuracy": 0.95,
        "table_bytes": (31 - (k or 0)) * 2**20,
    }  # fmt: skip
    return {**base, **changed}


def golden() -> list[dict[str, Any]]:
    rows = [row(k, accuracy, mode=mode) for mode, points in GOLDEN.items() for k, accuracy in points.items()]
    tuned = {"finetuned": True, "baseline_accuracy": 0.6}
    return rows + [row(k, a, trained_k=k, checkpoint=f"tuned{k}.pt", **tuned) for k, a in TUNED.items()]


def curves(axes: Axes) -> dict[str, dict[float, float]]:
    found = {}
    for line in axes.get_lines():
        label = str(line.get_label())
        if not label.startswith("_"):
            found[label] = dict(zip(line.get_xdata(), line.get_ydata(), strict=True))
    return found


def test_accuracy_vs_k_shows_every_series_its_band_and_its_knee() -> None:
    axes, closer = accuracy_vs_k(golden()).axes
    shown = curves(axes)
    assert shown["PosZero, knee at k = 16"] == GOLDEN["poszero"]
    assert shown["NegPass, knee at k = 12"] == GOLDEN["negpass"]
    assert shown["PosZero, fine-tuned at each k, knee at k = 18"] == TUNED
    assert set(shown["exact ReLU, 95.0%"].values()) == {0.95}
    band = axes.collections[0].get_paths()[0].get_extents()
    assert math.isclose(band.ymin, 0.29)
    assert math.isclose(band.ymax, 0.96)
    stars = [
        (line.get_xdata()[0], line.get_ydata()[0]) for line in axes.get_lines() if line.get_marker() == "*"
    ]
    assert stars == [(16, 0.942), (12, 0.95), (18, 0.943)]
    assert curves(closer).items() >= shown.items()
    assert min(curves(closer)["1 points below"].values()) == pytest.approx(0.94)


def test_the_panels_show_where_accuracy_moves_and_the_top() -> None:
    axes, closer = accuracy_vs_k(golden()).axes
    assert axes.get_xlim() == (-0.5, 20.5)  # NegPass moves at 16 already, PosZero is not flat at 12
    assert closer.get_ylim() == pytest.approx((0.89, 0.96))
    flat = [row(k, 0.95 if k < 18 else 0.5) for k in (0, 4, 8, 12, 16, 18, 19)]
    axes, _ = accuracy_vs_k(flat).axes
    assert axes.get_xlim() == (15.5, 18.5)
    assert [text.get_text() for text in axes.texts] == ["flat from 0 on"]
    level = [row(k, 0.95) for k in (0, 4)]
    assert len(accuracy_vs_k(level).axes) == 1


def test_a_line_that_stays_up_is_shown_as_far_as_its_knee() -> None:
    up = [row(k, 0.949 - 0.001 * k / 20, frac_bits="per-channel") for k in (18, 20, 22)]
    figure = accuracy_vs_k([*(row(k, GOLDEN["poszero"][k]) for k in (0, 16, 18, 20)), *up])
    assert figure.axes[0].get_xlim()[1] == 22.5


def test_where_nothing_moves_all_is_shown() -> None:
    assert where_it_moves([[Point(x, 0.9, 0.9, 0.9) for x in (0, 5)]]) == (0, 5)
    falling = [Point(x, y, y, y) for x, y in ((0, 0.9), (1, 0.8), (2, 0.7))]
    assert where_it_moves([falling, []]) == (0, 2)


def test_a_fault_model_of_ones_own_stands_beside_circas_where_its_severity_is_k() -> None:
    coin = {"fault": "coin_tie", "severity": "k", "mode": None}
    other = row(3, 0.5, fault="window", severity="low")
    own = [row(k, accuracy, level=k, **coin) for k, accuracy in ((12, 0.94), (16, 0.7))]
    found = gallery([row(12, 0.95), row(16, 0.9), *own, other]).figures
    shown = curves(found["accuracy_vs_k"].axes[0])
    assert shown["coin_tie, knee at k = 12"] == {12: 0.94, 16: 0.7}
    assert shown["PosZero, knee at k = 12"] == {12: 0.95, 16: 0.9}
    assert not any("window" in label for label in shown)
    assert "accuracy_vs_coin_tie" in found


def test_a_network_tuned_at_one_k_is_a_line_of_its_own_through_its_own_points() -> None:
    before = {18: 0.9, 20: 0.7, 21: 0.16, 22: 0.1}
    after = {18: 0.9, 20: 0.88, 21: 0.8, 22: 0.3}
    tuned = {"finetuned": True, "trained_k": 21, "checkpoint": "tuned.pt", "baseline_accuracy": 0.8}
    rows = [row(k, y) for k, y in before.items()] + [row(k, y, **tuned) for k, y in after.items()]
    drawn = curves(accuracy_vs_k(rows).axes[0])
    shown = {label.split(", knee")[0]: points for label, points in drawn.items()}
    assert shown["PosZero"] == before
    assert shown["PosZero, fine-tuned at k = 21"] == after


def test_several_networks_and_data_sets_are_drawn_one_line_each() -> None:
    rows = [row(k, y, checkpoint=f"runs/{name}/best.pt", network=name)
            for name, y in (("one", 0.9), ("two", 0.8)) for k in (12, 16)]  # fmt: skip
    rows += [row(k, 0.7, data="imagefolder:data/cifar10_jpeg", model="resnet32") for k in (12, 16)]
    digits, cifar = accuracy_vs_k(rows).axes
    assert cifar.get_title() == "resnet32 on CIFAR-10 (JPEG copy)"
    assert curves(cifar)["PosZero"] == {12: 0.7, 16: 0.7}
    assert curves(digits)["PosZero (one)"] == {12: 0.9, 16: 0.9}
    assert curves(digits)["PosZero (two)"] == {12: 0.8, 16: 0.8}


@pytest.mark.parametrize(
    ("column", "label"), [("model", "other, PosZero"), ("frac_bits", "PosZero, 4 fraction bits")]
)
def test_lines_say_what_differs(column: str, label: str) -> None:
    other = {"model": "other", "frac_bits": 4}[column]
    shown = curves(accuracy_vs_k([row(), row(13, checkpoint="b.pt", **{column: other})]).axes[0])
    assert label in shown


def test_training_seeds_are_one_line_with_their_mean_and_range() -> None:
    rows = [
        row(k, y + shift, checkpoint=f"{seed}.pt", recipe="r", seed=seed)
        for seed, shift in ((0, -0.02), (1, 0.0), (2, 0.02))
        for k, y in ((12, 0.9), (16, 0.8))
    ]
    (axes,) = accuracy_vs_k(rows).axes
    shown = curves(axes)["PosZero, 3 networks"]
    assert shown == pytest.approx({12: 0.9, 16: 0.8})
    band = axes.collections[0].get_paths()[0].get_extents()
    assert (band.ymin, band.ymax) == pytest.approx((0.78, 0.92))


def test_two_recipes_at_one_k_are_no_repetitions() -> None:
    rows = [row(18, y, finetuned=True, trained_k=18, checkpoint=f"{y}.pt", recipe=str(y)) for y in (0.8, 0.9)]
    shown = curves(accuracy_vs_k(rows).axes[0])
    assert {label for label in shown if "fine-tuned" in label} == {
        "PosZero, fine-tuned at k = 18 (0.8.pt)",
        "PosZero, fine-tuned at k = 18 (0.9.pt)",
    }


def test_what_measures_severity_in_two_ways_is_refused_with_the_way_to_choose() -> None:
    rows = [row(fault="mine", level=1, severity=name) for name in ("low_bits", "strength")]
    with pytest.raises(MixedExperiments, match=r"\+where\.severity="):
        accuracy_vs_severity(rows, "mine")


def test_the_knee_is_the_last_k_before_the_first_loss() -> None:
    assert knee({0: 0.95, 8: 0.941, 12: 0.90, 16: 0.95}, 0.95, 0.01) == 8
    assert knee({0: 0.5}, 0.95) is None
    assert knee({}, 0.95) is None
    assert knee({4: 0.945, 0: 0.945}, 0.95, 0.01) == 4


def test_pooling_weighs_by_draws_and_narrows_the_interval() -> None:
    rows = [row(accuracy=0.8, draws=5), row(accuracy=0.9, draws=15)]
    point = pooled(12, rows)
    assert math.isclose(point.y, 0.875)
    assert math.isclose(point.high - point.y, math.sqrt((5 * 0.01) ** 2 + (15 * 0.01) ** 2) / 20)
    assert pooled(12, rows[:1]).low == 0.79


def test_the_same_draws_found_twice_do_not_narrow_the_interval() -> None:
    seed = "config.fault.seed"
    more, fewer, other = (
        row(draws=20, **{seed: 0}),
        row(accuracy=0.8, draws=5, **{seed: 0}),
        row(draws=20, **{seed: 1}),
    )
    assert accuracy_points([fewer, more, more], "k") == [pooled(12, [more])]
    assert accuracy_points([fewer, more, other], "k") == [pooled(12, [more, other])]


def test_accuracy_vs_rate_has_a_logarithmic_axis_and_leaves_out_zero() -> None:
    uniform = {"fault": "uniform", "k": None, "mode": None}
    rows = [
        row(accuracy=a, rate=r, direction=d, **uniform)
        for d in ("both", "zeroed")
        for r, a in ((0.0, 0.95), (0.01, 0.9), (0.1, 0.5))
    ]
    (axes,) = accuracy_vs_rate(rows).axes
    assert axes.get_xscale() == "log"
    assert curves(axes)["both directions"] == {0.01: 0.9, 0.1: 0.5}
    assert curves(axes)["positives zeroed only"] == {0.01: 0.9, 0.1: 0.5}


def test_the_pareto_front_is_what_nothing_beats() -> None:
    assert pareto_front([(3, 0.9), (1, 0.5), (2, 0.4), (3, 0.8), (4, 0.9)]) == [(1, 0.5), (3, 0.9)]
    assert pareto_front([]) == []


def test_accuracy_vs_bytes_compares_models() -> None:
    rows = [row(12, 0.9), row(20, 0.3), row(12, 0.95, model="resnet32", table_bytes=30 * 2**20)]
    axes, closer = accuracy_vs_bytes(rows).axes
    shown = curves(axes)
    assert shown["Pareto front, with its k"] == {11.0: 0.3, 19.0: 0.9, 30.0: 0.95}
    assert shown["resnet32, PosZero"] == {30.0: 0.95}
    assert [text.get_text() for text in closer.texts] == ["12", "20", "12"]


def test_exact_relus_stand_beside_accuracy_against_bytes() -> None:
    rows = [row(12, 0.9, relus=1000), row(16, 0.89, relus=1000), row(16, 0.94, relus=1000, finetuned=True)]
    shown = curves(accuracy_vs_bytes(rows).axes[0])
    assert shown["full ReLU"] == {1000 * 247 * 32 / 2**20: 0.95}
    assert shown["exact sign"] == {1000 * 123 * 32 / 2**20: 0.95}


@pytest.mark.parametrize(
    ("lines", "near"),
    [
        # one k near the top, of a narrow range
        ({"poszero": {24: 0.94, 25: 0.6, 26: 0.2}, "negpass": {24: 0.93, 25: 0.7, 26: 0.4}}, [24]),
        ({"poszero": {24: 0.94, 25: 0.92, 26: 0.2}, "negpass": {24: 0.93, 25: 0.7, 26: 0.4}}, [24, 25]),
        # the best line ends before the other one falls
        ({"poszero": {8: 0.95, 10: 0.95}, "negpass": {16: 0.8, 18: 0.8, 20: 0.5}}, [10]),
    ],
)
def test_there_is_no_k_between_two(lines: dict[str, dict[int, float]], near: list[int]) -> None:
    rows = [row(k, accuracy, mode=mode) for mode, points in lines.items() for k, accuracy in points.items()]
    _, closer = figure = accuracy_vs_k(rows).axes
    for axes in figure:
        left, right = axes.get_xlim()
        assert left < right
        ticks = [tick for tick in axes.get_xticks() if left <= tick <= right]
        assert ticks
        assert all(float(tick).is_integer() for tick in ticks)
    left, right = closer.get_xlim()
    assert [tick for tick in closer.get_xticks() if left <= tick <= right] == near


def test_levels_that_are_whole_have_whole_ticks() -> None:
    def ticks(levels: tuple[float, ...]) -> list[float]:
        rows = [
            {**row(12, 0.9 - level / 100, fault="mine", level=level, severity="depth"), "k": None}
            for level in levels
        ]
        return list(accuracy_vs_severity(rows, "mine").axes[0].get_xticks())

    assert all(float(tick).is_integer() for tick in ticks((1, 2)))
    assert not all(float(tick).is_integer() for tick in ticks((0.25, 0.5)))


def test_the_answer_of_a_search_is_a_point() -> None:
    search = {
        "kind": "search", "run": "s", "overrides": "", "model": "resnet8", "data": "digits",
        "prime": 2138816513,
        "beats_uniform": True, "checkpoint": "best.pt", "frac_bits": 5, "chosen.and_gates": 2**20,
        "chosen.test.accuracy.mean": 0.93, "chosen.test.accuracy.low": 0.92,
        "chosen.test.accuracy.high": 0.94, "chosen.test.accuracy.images": 359,
        "chosen.test.baseline_accuracy": 0.95,
    }  # fmt: skip
    shown = curves(accuracy_vs_bytes([row()], [search]).axes[0])
    assert shown["one k per site"] == {32.0: 0.93}
    asked = {**search, "beats_uniform": None, "gates": 11.0, "mode": "poszero"}  # not within a budget
    assert curves(accuracy_vs_bytes([row()], [asked]).axes[0])["one k per site"] == {32.0: 0.93}


def test_seconds_are_those_of_inferences_with_the_same_circuits() -> None:
    rows = [row(k, 0.9 + k / 1000, relus=1000, and_gates=1000 * (31 - k)) for k in (12, 14, 16)]
    inferences = [
        {"kind": "infer", "relus": relus, "and_gates": gates, "online_seconds.median": seconds}
        for relus, gates, seconds in ((1000, 19_000, 0.75), (1000, 15_000, 0.5), (900, 17_000, 9.0))
    ]
    axes, *_ = accuracy_vs_seconds(rows, inferences).axes
    assert curves(axes)["PosZero"] == {0.75: 0.912, 0.5: 0.916}
    assert axes.get_xlabel() == "online seconds per inference"
    with pytest.raises(ValueError, match="no private inference has the sign tests"):
        accuracy_vs_seconds(rows, inferences[2:])
    assert "accuracy_vs_seconds" in gallery([*rows, *inferences]).figures


def test_accuracy_vs_bytes_names_what_has_no_mode() -> None:
    others = [row(mode=None, k=None, fault="none"), row(mode=None, fault="per site")]
    (axes,) = accuracy_vs_bytes([row(), *others]).axes
    assert {"exact", "one k per site"} <= curves(axes).keys()


@pytest.mark.parametrize("mode", ["poszero", "negpass"])
def test_probability_curves_are_the_exact_counts(mode: str) -> None:
    left, right = fault_probability_curves([0, 3], mode=mode, prime=251).axes
    for axes, sign in ((left, -1), (right, 1)):
        for label, points in curves(axes).items():
            spec = TruncatedSign(k=int(label.removeprefix("k = ")), mode=mode, prime=251)
            for log_x, probability in points.items():
                assert math.isclose(probability, fault_count(sign * round(2**log_x), spec) / 251)
            assert {round(2**log_x) for log_x in points} == set(range(1, 126))


def site(name: str, k: int = 12, observed: float = 3.0, **changed: Any) -> dict[str, Any]:
    kinds = ("wrap_zeroed", "wrap_passed", "truncation_zeroed", "truncation_passed")
    counts = {
        f"{what}.{kind}": value
        for kind in kinds
        for what, value in (("expected", 2.0), ("observed", observed))
    }
    return {**row(k), "site": name, **counts, "expected.values": 100, "observed.values": 100, **changed}


def test_site_rates_show_observed_beside_expected() -> None:
    figure = site_fault_rates([site("relu"), site("layer1.0.relu1", observed=1.0)])
    assert len(figure.axes) == 4
    for axes in figure.axes:
        assert curves(axes) == {"exact law": {0: 0.02, 1: 0.02}, "observed": {0: 0.03, 1: 0.01}}
    with pytest.raises(MixedExperiments):
        site_fault_rates([site("relu"), site("relu", run="another")])


def test_the_heat_map_is_sites_by_k() -> None:
    rows = [site(name, k, observed=k / 4) for name in ("relu", "layer1.0.relu1") for k in (8, 12)]
    grid = site_heat_map(rows).axes[0].images[0].get_array()
    assert grid.tolist() == [[0.08, 0.12], [0.08, 0.12]]


def test_the_gallery_draws_what_there_is_and_says_what_is_missing() -> None:
    drawn = gallery(golden(), [site("relu", k) for k in (12, 16, 18)])
    assert set(drawn.figures) == {
        "accuracy_vs_k", "accuracy_vs_bytes", "site_heat_map", "site_fault_rates",
        "fault_probability_poszero", "fault_probability_negpass",
    }  # fmt: skip
    assert set(drawn.left_out) == {
        "accuracy_vs_rate", "accuracy_vs_seconds", "loss_vs_compared_bits", "site_histograms", "site_harm",
        "training_curves",
    }  # fmt: skip
    several = [site("relu", 12), site("relu", 12, run="other", checkpoint="runs/b/best.pt", network="b c")]
    mixed = gallery([*golden(), row(model="resnet32")], several)
    assert {"accuracy_vs_k", "site_heat_map_b_c", "site_fault_rates_b_c"} <= mixed.figures.keys()
    assert gallery([{"kind": "train"}]).figures == {}


def test_a_figure_is_written_with_its_command_and_twice_alike(tmp_path: Path) -> None:
    command = "scripts/plot.py runs=runs/sweeps/truncation"
    first = save_figure(accuracy_vs_k(golden()), tmp_path / "a", command=command)
    second = save_figure(accuracy_vs_k(golden()), tmp_path / "b", command=command)
    assert [path.name for path in first] == ["a.png", "a.svg", "a.pdf"]
    with Image.open(first[0]) as image:
        assert image.info["Comment"] == command
    assert command in first[1].read_text()
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert len(list(tmp_path.iterdir())) == 6
    assert first[2].read_bytes().startswith(b"%PDF-")
    with pytest.raises(ValueError, match="eps"):
        save_figure(accuracy_vs_k(golden()), tmp_path / "c", command=command, formats=["eps"])


def test_writing_a_pdf_logs_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):  # as Hydra sets it for job.log and the console
        save_figure(accuracy_vs_k(golden()), tmp_path / "a", command="", formats=["pdf"])
    assert caplog.messages == []


def test_a_point_says_what_it_is_and_how_to_make_it() -> None:
    (note,) = accuracy_vs_k([row(12, 0.9, overrides="fault.k=12")]).notes
    assert (note.x, note.y) == (12, 0.9)
    assert note.text.splitlines() == [
        "PosZero, k = 12",
        "90.00% [89.00, 91.00]",
        "95% interval over the draws; 5 draws of 359 images",
        "scripts/evaluate.py fault.k=12",
    ]


def test_histograms_stand_against_the_band_of_k() -> None:
    sizes = {"magnitudes.negative": [0, 2], "magnitudes.positive": [1, 0], "magnitudes.zeros": 1}
    (axes,) = site_histograms([site("relu", 1, **sizes)]).axes
    bars = {patch.get_x() + 0.45: patch.get_height() for patch in axes.patches[1:]}
    assert bars == pytest.approx({-1: 0, -2: 0.5, 1: 0.25, 2: 0})
    band = axes.patches[0]
    assert (band.get_x(), band.get_x() + band.get_width()) == (-1.5, 1.5)


def test_harm_k_and_faults_by_site() -> None:
    rows = [
        {"run": "s", "model": "resnet8", "data": "digits", "mode": "poszero", "budget": 0.01,
         "uniform_k": 17, "harm_k": 18, "harm": harm, "site": name, "relus": 10, "k": k, "and_gates": 130,
         "expected_faults": 2.0}
        for name, k, harm in (("a", 17, 0.1), ("b", 18, 0.01))
    ]  # fmt: skip
    harm, ks, faults = site_harm(rows).axes
    assert [bar.get_height() for bar in harm.patches] == [0.1, 0.01]
    assert curves(ks)["k of the answer"] == {0: 17, 1: 18}
    assert [bar.get_height() for bar in faults.patches] == [0.2, 0.2]
    assert len(site_harm([{**each, "harm": None} for each in rows]).axes) == 2
    asked = [{**each, "budget": None, "gates": 11.5, "uniform_k": None, "harm_k": 20} for each in rows]
    figure = site_harm(asked)  # not within a budget, but for a number of gates
    assert "11.5 AND gates per sign test" in str(figure.get_suptitle())
    assert set(curves(figure.axes[1])["one k for all with no more gates"].values()) == {20}


def test_training_curves_are_the_metrics() -> None:
    epochs = [
        {"step": e, "epoch": e, "train_loss": 1 / e, "validation_loss": None, "validation_accuracy": e / 4}
        for e in (1, 2)
    ]
    left, right = training_curves({"seed0": epochs, "empty": []}).axes
    assert curves(left)["seed0"] == {1: 1.0, 2: 0.5}
    assert curves(right)["seed0"] == {1: 0.25, 2: 0.5}


def test_twenty_series_look_different() -> None:
    assert len({(s.color, s.marker, str(s.linestyle)) for s in map(series_style, range(20))}) == 20


@pytest.mark.parametrize(
    ("found", "bits"),
    [({"gates": 11.0, "joint": True}, "per-channel"), ({"gates": 11.0, "joint": False}, 20), ({}, 20)],
)
def test_a_joint_searchs_answer_has_scales_of_its_own(found: dict[str, Any], bits: Any) -> None:
    assert answer_row({"frac_bits": 20, **found})["frac_bits"] == bits
