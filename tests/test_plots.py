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
    fault_probability_curves,
    gallery,
    knee,
    pareto_front,
    save_figure,
    site_fault_rates,
    site_heat_map,
)
from circa_train.plots.series import accuracy_points, pooled
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
    (axes,) = accuracy_vs_k(golden()).axes
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


def test_a_network_tuned_at_one_k_is_followed_along_the_others() -> None:
    rows = [row(k, 0.9, finetuned=True, trained_k=18, checkpoint="tuned.pt") for k in (16, 18, 20)]
    shown = curves(accuracy_vs_k(rows).axes[0])
    assert {x for label, points in shown.items() if "at k = 18" in label for x in points} >= {16, 20}


@pytest.mark.parametrize("column", ["model", "data", "split", "frac_bits", "prime", "checkpoint"])
def test_mixed_experiments_are_refused_with_the_way_to_choose(column: str) -> None:
    with pytest.raises(MixedExperiments, match=rf"\+where\.{column}="):
        accuracy_vs_k([row(), row(13, **{column: "other" if column != "prime" else 257})])


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
    (axes,) = accuracy_vs_bytes(rows).axes
    shown = curves(axes)
    assert shown["Pareto front, with its k"] == {11.0: 0.3, 19.0: 0.9, 30.0: 0.95}
    assert shown["resnet32, PosZero"] == {30.0: 0.95}


def test_accuracy_vs_bytes_names_what_has_no_mode() -> None:
    others = {"exact": row(mode=None, k=None, fault="none"), "per site": row(mode=None, fault="per site")}
    (axes,) = accuracy_vs_bytes([row(), *others.values()]).axes
    assert {f"resnet8, {name}" for name in others} <= curves(axes).keys()


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
    assert list(drawn.left_out) == ["accuracy_vs_rate"]
    mixed = gallery([*golden(), row(model="resnet32")])
    assert "+where.model=" in mixed.left_out["accuracy_vs_k"]
    assert gallery([{"kind": "train"}]).figures == {}


def test_a_figure_is_written_with_its_command_and_twice_alike(tmp_path: Path) -> None:
    command = "scripts/plot.py runs=runs/sweeps/truncation"
    first = save_figure(accuracy_vs_k(golden()), tmp_path / "a", command=command)
    second = save_figure(accuracy_vs_k(golden()), tmp_path / "b", command=command)
    assert [path.name for path in first] == ["a.png", "a.svg"]
    with Image.open(first[0]) as image:
        assert image.info["Comment"] == command
    assert command in first[1].read_text()
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert len(list(tmp_path.iterdir())) == 4
    with pytest.raises(ValueError, match="pdf"):
        save_figure(accuracy_vs_k(golden()), tmp_path / "c", command=command, formats=["pdf"])


def test_twenty_series_look_different() -> None:
    assert len({(s.color, s.marker, str(s.linestyle)) for s in map(series_style, range(20))}) == 20
