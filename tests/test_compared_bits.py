"""What is lost at how many compared bits: networks, data and fault models on one axis, and their knees."""

from __future__ import annotations

from typing import Any

import pytest

from circa_train.field import DEFAULT_PRIME
from circa_train.plots import knees, loss_vs_compared_bits
from circa_train.plots.compared_bits import compared_bits

RELUS = 1000


def row(k: int | None, accuracy: float, **changed: Any) -> dict[str, Any]:
    base = {
        "kind": "evaluate", "run": f"runs/{k}", "model": "resnet8", "data": "digits", "split": "test",
        "checkpoint": "best.pt", "method": "as it is", "finetuned": False, "trained_k": None,
        "fault": "truncated_sign", "mode": "poszero", "k": k, "prime": DEFAULT_PRIME, "frac_bits": 20,
        "accuracy": accuracy, "accuracy_low": accuracy - 0.01, "accuracy_high": accuracy + 0.01, "draws": 5,
        "images": 359, "baseline_accuracy": 0.95, "relus": RELUS,
        "and_gates": None if k is None else (31 - k) * RELUS,
    }  # fmt: skip
    return {**base, **changed}


def window(low: int, high: int, accuracy: float) -> dict[str, Any]:
    return row(None, accuracy, fault="bit_window", mode=None, prime=None, low=low, high=high)


ROWS = [
    row(0, 0.95), row(16, 0.945), row(18, 0.93), row(20, 0.5),
    row(18, 0.94, data="cifar10", checkpoint="c.pt"), row(20, 0.939, data="cifar10", checkpoint="c.pt"),
    row(18, 0.9, mode="negpass"), row(20, 0.8, mode="negpass"),
    row(20, 0.945, finetuned=True, trained_k=20, checkpoint="t.pt", baseline_accuracy=0.6),
    window(14, 27, 0.949), window(18, 27, 0.90),
    row(None, 0.7, fault="uniform", mode=None, rate=0.1),
    row(0, 0.95, fault="none", mode=None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "bits"),
    [
        (row(20, 0.9), 11.0),
        (row(None, 0.9, and_gates=11_500), 11.5),  # one k per site
        (window(14, 27, 0.9), 13.0),
        (row(None, 0.9, fault="uniform"), None),
        (row(0, 0.9, fault="none"), None),
        (row(20, 0.9, relus=None), None),
        (row(None, 0.9, fault="bit_window"), None),
    ],
)
def test_compared_bits_are_gates_per_sign_test_or_the_window(given: dict[str, Any], bits: float) -> None:
    assert compared_bits(given) == bits


def test_the_figure_has_every_line_with_what_it_lost() -> None:
    figure = loss_vs_compared_bits(ROWS)
    (axes,) = figure.axes
    drawn = {
        str(line.get_label()): dict(zip(line.get_xdata(), line.get_ydata(), strict=True))
        for line in axes.get_lines()
        if not str(line.get_label()).startswith("_")
    }
    expected = {
        "resnet8 on digits, PosZero, 20 fraction bits, knee at 15": {31: 0.0, 15: -0.5, 13: -2.0, 11: -45.0},
        "resnet8 on digits, NegPass, 20 fraction bits": {13: -5.0, 11: -15.0},
        "resnet8 on digits, bit_window, 20 fraction bits, knee at 13": {13: -0.1, 9: -5.0},
        "resnet8 on digits, PosZero, fine-tuned, 20 fraction bits": {11: -0.5},  # of 0.95, not of 0.6
        "resnet8 on CIFAR-10, PosZero, 20 fraction bits, knee at 13": {13: -1.0, 11: -1.1},
    }
    assert drawn.keys() == expected.keys()
    for label, points in expected.items():
        assert drawn[label] == pytest.approx(points)
    assert len(figure.notes) == 9, "points far below are not in view"
    with pytest.raises(ValueError, match="no evaluation with compared bits"):
        loss_vs_compared_bits([row(None, 0.7, fault="uniform")])


def test_more_lines_than_can_be_told_apart_have_a_panel_for_each_network_and_data_set() -> None:
    many = [row(k, 0.9 - 0.01 * bits, frac_bits=bits) for bits in range(10, 19) for k in (16, 18)]
    figure = loss_vs_compared_bits([*ROWS, *many])
    panels = {axes.get_title(): axes for axes in figure.axes}
    first, second = panels.pop("resnet8 on digits"), panels.pop("resnet8 on CIFAR-10")
    assert not panels
    assert (first.get_xlim(), first.get_ylim()) == (second.get_xlim(), second.get_ylim())
    (label,) = [str(line.get_label()) for line in second.get_lines() if str(line.get_label())[0] != "_"]
    assert label == "PosZero, 20 fraction bits, knee at 13", "the title says network and data"
    assert sum("fraction bits" in str(line.get_label()) for line in first.get_lines()) == 13


def test_the_table_of_knees() -> None:
    found = {(each["data"], each["sign_test"]): each for each in knees(ROWS)}
    assert len(found) == 4, "one point alone has no knee"
    poszero = found["digits", "PosZero"]
    assert (poszero["knee_bits"], poszero["next_bits"]) == (15, 13)
    assert (poszero["lost_at_knee"], poszero["lost_at_next"]) == pytest.approx((0.5, 2.0))
    negpass = found["digits", "NegPass"]
    assert (negpass["knee_bits"], negpass["lost_at_knee"], negpass["next_bits"]) == (None, None, 13)
    assert found["digits", "bit_window"]["knee_bits"] == 13
    wider = {(each["data"], each["sign_test"]): each["knee_bits"] for each in knees(ROWS, tolerance=0.02)}
    assert wider["CIFAR-10", "PosZero"] == 11
    assert knees([row(None, 0.7, fault="uniform")]) == []


def test_a_point_is_held_against_the_exact_relus_on_its_own_images() -> None:
    some = row(20, 0.95, baseline_accuracy=0.96, images=100, checkpoint="best.pt")
    more = row(22, 0.949, baseline_accuracy=0.96, images=100)
    found = knees([row(0, 0.95), some, row(20, 0.93, draws=3), more])
    assert (found[0]["knee_bits"], found[0]["next_bits"]) == (11, 9)
    assert (found[0]["lost_at_knee"], found[0]["lost_at_next"]) == pytest.approx((1.0, 1.1))
    tuned = [row(k, y, finetuned=True, trained_k=k, images=100, baseline_accuracy=0.5, checkpoint="tuned.pt")
             for k, y in ((20, 0.955), (22, 0.94))]  # fmt: skip
    (found_tuned,) = [each for each in knees([row(0, 0.95), some, *tuned]) if each["lost_at_next"]]
    assert (found_tuned["lost_at_knee"], found_tuned["lost_at_next"]) == pytest.approx((0.5, 2.0)), "of 0.96"


def test_a_searchs_answer_is_a_point() -> None:
    search = {
        "kind": "search", "model": "resnet8", "data": "digits", "beats_uniform": True, "relus": RELUS,
        "chosen.and_gates": 12_250, "chosen.test.accuracy.mean": 0.947, "chosen.test.accuracy.low": 0.946,
        "chosen.test.accuracy.high": 0.948, "chosen.test.baseline_accuracy": 0.95, "frac_bits": 20,
    }  # fmt: skip
    (axes,) = loss_vs_compared_bits([], [search]).axes
    (line,) = [line for line in axes.get_lines() if "one k per site" in str(line.get_label())]
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([12.25], [pytest.approx(-0.3)])
