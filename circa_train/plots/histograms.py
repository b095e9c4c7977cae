"""How large activations are, site by site, against the band that k truncates."""

from __future__ import annotations

from collections.abc import Sequence

from circa_train.plots.series import require_one
from circa_train.plots.style import GREY, NotedFigure, dress, new_figure, plain, series_style
from circa_train.plots.words import data_title, mode_name, model_title
from circa_train.runs import Row

_COLUMNS = 4


def site_histograms(rows: Sequence[Row]) -> NotedFigure:
    """Share of a site's activations by their magnitude, negative ones to the left, positive to the right.

    A bin is one bit length: the bar at b holds 2^(b-1) <= |x| < 2^b. The shaded band holds |x| < 2^k, the
    values whose sign truncation can lose: where much of a histogram lies in it, many sign tests are ties.

    Args:
        rows: of one evaluation, with ``magnitudes.negative`` and ``magnitudes.positive``, counts by bit
            length, and ``magnitudes.zeros``.

    Raises:
        MixedExperiments: if the rows come from several evaluations.
        ValueError: if no row has a histogram.
    """
    rows = [row for row in rows if row.get("magnitudes.negative")]
    if not rows:
        raise ValueError("no evaluation with histograms of activations; evaluate with sites=true")
    require_one(rows, ("run",), "histograms of activations")
    first, columns = rows[0], min(_COLUMNS, len(rows))
    lines = -(-len(rows) // columns)
    figure, panels = new_figure(
        lines, columns, width=8.6, height=0.9 + 1.25 * lines, sharex=True, sharey=True, squeeze=False
    )
    for place, axes in enumerate(panels.flat):
        if place >= len(rows):
            axes.set_axis_off()
            continue
        row = rows[place]
        negative, positive = row["magnitudes.negative"], row["magnitudes.positive"]
        total = max(sum(negative) + sum(positive) + (row.get("magnitudes.zeros") or 0), 1)
        if row.get("k") is not None:
            axes.axvspan(-row["k"] - 0.5, row["k"] + 0.5, color=GREY, alpha=0.15, linewidth=0)
        for sign, counts, index in ((-1, negative, 1), (1, positive, 0)):
            axes.bar(
                [sign * bits for bits in range(1, len(counts) + 1)], [count / total for count in counts],
                width=0.9, color=series_style(index).color,
            )  # fmt: skip
        dress(axes)
        axes.set_title(plain(row["site"]), fontsize=7)
        axes.tick_params(labelsize=7)
        ticks = range(-24, 25, 12)
        axes.set_xticks(ticks, [str(abs(tick)) for tick in ticks])
    for axes in panels[:, 0]:
        axes.set_ylabel("share", fontsize=8)
    for axes in panels[-1, :]:
        axes.set_xlabel("bits of |x|", fontsize=8)
    at = "" if first.get("k") is None else f", {mode_name(first['mode'])}, band: |x| < 2^{first['k']}"
    named = f"{model_title(first['model'])} on {data_title(first['data'])}"
    figure.suptitle(f"{plain(named)}, x < 0 left, x > 0 right{at}", fontsize=11)
    return figure
