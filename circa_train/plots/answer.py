"""What a search found, site by site: how much each site alone harms, and which k it got."""

from __future__ import annotations

from collections.abc import Sequence

from circa_train.plots.series import require_one
from circa_train.plots.style import (
    GREY,
    Note,
    NotedFigure,
    dress,
    new_figure,
    plain,
    series_style,
    whole_numbers,
)
from circa_train.plots.words import data_title, mode_name, model_title
from circa_train.runs import Row


def site_harm(rows: Sequence[Row]) -> NotedFigure:
    """Harm, k and faults of every site of one search, in the order of execution.

    Above, what the exact law foretells that faults at that site alone do to the answers, as the divergence
    of the class probabilities from the exact network's, at one k for all. Then the k of the answer, beside
    the one k that would do for all (of as few AND gates, where gates were asked for); below, the faults that
    are expected of each ReLU at that k.

    Args:
        rows: of :func:`circa_train.runs.sites.allocation_rows`.

    Raises:
        MixedExperiments: if the rows come from several searches.
        ValueError: if there are none.
    """
    if not rows:
        raise ValueError("no search with an allocation")
    shared = require_one(rows, ("run",), "harm per site") | dict(rows[0])
    names = [plain(row["site"]) for row in rows]
    harms = [row.get("harm") for row in rows]
    rates = [
        None if row.get("expected_faults") is None else row["expected_faults"] / max(row["relus"], 1)
        for row in rows
    ]
    measured = [panel for panel, values in (("harm", harms), ("rate", rates)) if any(values)]
    kinds = [*measured[: "harm" in measured], "k", *(["rate"] if "rate" in measured else [])]
    figure, panels = new_figure(
        len(kinds), 1, width=7.6, height=2.1 * len(kinds) + 0.8, sharex=True, squeeze=False
    )
    places = range(len(rows))
    for kind, (axes,) in zip(kinds, panels, strict=True):
        if kind == "k":
            axes.plot(
                places, [row["k"] for row in rows], color=series_style(0).color, marker="o", markersize=5,
                drawstyle="steps-mid", linewidth=1.2, label="k of the answer",
            )  # fmt: skip
            same, told = shared["uniform_k"], "one k for all"
            if same is None:
                same, told = shared["harm_k"], "one k for all with no more gates"
            axes.axhline(same, color=GREY, linestyle="--", linewidth=1, label=told)
            whole_numbers(axes.yaxis)
            axes.legend(fontsize=8, frameon=False)
            figure.notes += [Note(axes, x, row["k"], _told(row)) for x, row in zip(places, rows, strict=True)]
            dress(axes, ylabel="truncated bits k")
            continue
        values, index = (harms, 1) if kind == "harm" else (rates, 2)
        axes.bar(places, [value or 0.0 for value in values], color=series_style(index).color, width=0.7)
        if min((value for value in values if value), default=0) > 0:
            axes.set_yscale("log")
        harm = f"divergence (nats)\nalone at k = {shared.get('harm_k')}"
        dress(axes, ylabel=harm if kind == "harm" else "expected faults\nper ReLU, at its k")
    panels[-1][0].set_xticks(places, names, rotation=90, fontsize=6 if len(rows) > 12 else 8)
    modes = {mode_name(row["mode"]) for row in rows}
    mode = modes.pop() if len(modes) == 1 else "one mode per site"
    asked = (
        f"{100 * shared['budget']:g} points may be lost"
        if shared.get("gates") is None
        else f"{shared['gates']:g} AND gates per sign test"
    )
    network = f"{model_title(shared['model'])} on {data_title(shared['data'])}"
    figure.suptitle(plain(f"{network}, {mode}, {asked}"), fontsize=11)
    return figure


def _told(row: Row) -> str:
    lines = [f"{row['site']}: k = {row['k']}", f"{row['relus']:,} ReLUs, {row['and_gates']:,} AND gates"]
    if row.get("expected_faults") is not None:
        lines.append(f"{row['expected_faults']:,.1f} faults expected per image")
    if row.get("harm") is not None:
        lines.append(f"divergence {row['harm']:.3g} nats, alone at k = {row['harm_k']}")
    return "\n".join(lines)
