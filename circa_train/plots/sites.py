"""Fault rates site by site: observed against the exact law, and how they grow with k."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.colors import LogNorm

from circa_train.plots.series import group, require_one
from circa_train.plots.style import GREY, NotedFigure, dress, new_figure, plain, series_style
from circa_train.plots.words import data_title, mode_name, mode_rank, model_title
from circa_train.runs import Row

KINDS = ("wrap", "truncation")
DIRECTIONS = ("zeroed", "passed")


def site_fault_rates(rows: Sequence[Row]) -> NotedFigure:
    """Observed and expected fault rates of every site of one evaluation: wrap and truncation, zeroed and
    passed.

    ``rows`` are ``site_rows``, with ``expected.wrap_zeroed`` etc. (faults expected by the law on the
    activations of one batch), ``observed.wrap_zeroed`` etc. (counted on the same), and ``expected.values``
    (sign tests).

    Raises:
        MixedExperiments: if the rows come from several evaluations.
        ValueError: if there are none.
    """
    rows = [row for row in rows if "expected.wrap_zeroed" in row]
    if not rows:
        raise ValueError("no evaluation with figures per site; evaluate with sites=true")
    shared = require_one(rows, ("run",), "fault rates per site") | {
        key: rows[0].get(key) for key in ("model", "data", "mode", "k", "fault", "severity", "level")
    }
    names = [plain(row["site"]) for row in rows]
    flips = [
        kind for kind in ("flip",) if any(row.get(f"expected.{kind}_{d}") for row in rows for d in DIRECTIONS)
    ]
    kinds = flips or list(KINDS)
    figure, panels = new_figure(len(kinds), 2, width=7.6, height=2.8 * len(kinds), sharex=True, squeeze=False)
    for i, kind in enumerate(kinds):
        for j, direction in enumerate(DIRECTIONS):
            axes, column = panels[i][j], f"{kind}_{direction}"
            tests = [max(row["expected.values"], 1) for row in rows]
            expected = [row[f"expected.{column}"] / n for row, n in zip(rows, tests, strict=True)]
            observed = [row[f"observed.{column}"] / n for row, n in zip(rows, tests, strict=True)]
            law, seen = series_style(1), series_style(0)
            axes.plot(
                range(len(rows)),
                expected,
                label="exact law",
                color=law.color,
                marker="_",
                markersize=14,
                markeredgewidth=2,
                linestyle="none",
            )
            axes.plot(
                range(len(rows)),
                observed,
                label="observed",
                color=seen.color,
                marker="o",
                markersize=4,
                linestyle="none",
            )
            dress(axes, title=f"{kind}, {direction}", ylabel="faults per ReLU" if j == 0 else "")
            if not any(expected) and not any(observed):
                axes.set_yticks([])
                axes.text(0.5, 0.5, "none", transform=axes.transAxes, ha="center", color=GREY)
            axes.set_ylim(bottom=0)
            axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
            axes.set_xticks(range(len(rows)), names, rotation=90, fontsize=6 if len(rows) > 12 else 8)
    panels[0][0].legend(fontsize=8, frameon=False)
    test = mode_name(shared["mode"]) if shared["mode"] else shared["fault"]
    severity, level = ("k", shared["k"]) if shared["mode"] else (shared["severity"], shared["level"])
    named = f"{model_title(shared['model'])} on {data_title(shared['data'])}"
    figure.suptitle(f"{plain(named)}, {test}, {severity} = {level}", fontsize=11)
    return figure


def site_heat_map(rows: Sequence[Row]) -> NotedFigure:
    """Observed fault rate of each site (down, in order of execution) at each k (across), one panel per mode.

    White is a rate of zero.

    Raises:
        MixedExperiments: if the rows hold several models, data sets or checkpoints.
        ValueError: if no evaluation has figures per site and one k.
    """
    rows = [row for row in rows if "observed.wrap_zeroed" in row and row.get("k") is not None]
    if not rows:
        raise ValueError("no evaluation with figures per site and one k; evaluate with sites=true")
    shared = require_one(rows, ("model", "data", "checkpoint", "frac_bits"), "the map of sites and k")
    modes = dict(sorted(group(rows, lambda row: row["mode"]).items(), key=lambda item: mode_rank(item[0])))
    sites = list(dict.fromkeys(str(row["site"]) for row in rows))
    rates = {(row["mode"], str(row["site"]), row["k"]): _rate(row) for row in rows}
    positive = [rate for rate in rates.values() if rate > 0] or [1.0]
    norm = LogNorm(min(positive), max([*positive, min(positive) * 1.01]))
    figure, panels = new_figure(
        1,
        len(modes),
        width=2.6 + 2.6 * len(modes),
        height=1.8 + 0.28 * len(sites),
        sharey=True,
        squeeze=False,
    )
    for axes, mode in zip(panels[0], modes, strict=True):
        ks = sorted({row["k"] for row in modes[mode]})
        grid = [[rates.get((mode, site, k), float("nan")) or float("nan") for k in ks] for site in sites]
        axes.imshow(grid, aspect="auto", cmap="cividis", norm=norm, interpolation="nearest")
        axes.set_xticks(range(len(ks)), [str(k) for k in ks], fontsize=8)
        axes.set_yticks(range(len(sites)), map(plain, sites), fontsize=7)
        axes.set_xlabel("truncated bits k")
        axes.set_title(mode_name(mode), fontsize=10)
    figure.colorbar(panels[0][0].images[0], ax=list(panels[0]), label="faults per ReLU")
    named = f"{model_title(shared['model'])} on {data_title(shared['data'])}"
    figure.suptitle(plain(named), fontsize=11)
    return figure


def _rate(row: Row) -> float:
    faults = sum(
        row.get(f"observed.{kind}_{direction}") or 0 for kind in (*KINDS, "flip") for direction in DIRECTIONS
    )
    return float(faults / max(row["observed.values"], 1))
