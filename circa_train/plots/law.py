"""The exact fault law as curves."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from circa_train.fault import TruncatedSign, fault_probability
from circa_train.field import DEFAULT_PRIME, largest_centred
from circa_train.plots.style import NotedFigure, dress, new_figure, series_style
from circa_train.plots.words import mode_name

_POINTS = 600


def fault_probability_curves(
    ks: Sequence[int], *, mode: str = "poszero", prime: int = DEFAULT_PRIME
) -> NotedFigure:
    """P(fault) of a sign test against its input x, for each k: negative x on the left panel, positive on the
    right.

    The abscissa is log2 |x|, where truncation acts below 2^k and wrapping, |x|/p, above. The values are the
    law itself (``fault_probability``), not samples.

    Raises:
        ValueError: if there is no k, or one is out of range for the prime.
    """
    if not ks:
        raise ValueError("give at least one k to draw fault probabilities for")
    largest = largest_centred(prime)
    magnitudes = torch.unique(
        torch.logspace(
            0, torch.log2(torch.tensor(float(largest))).item(), _POINTS, base=2.0, dtype=torch.float64
        )
        .round()
        .to(torch.int64)
        .clamp(max=largest)
    )
    figure, (left, right) = new_figure(1, 2, width=7.6, sharey=True)
    for index, k in enumerate(ks):
        spec, style = TruncatedSign(k=int(k), mode=mode, prime=prime), series_style(index)
        for axes, sign in ((left, -1), (right, 1)):
            probability = fault_probability(sign * magnitudes, spec)
            axes.plot(
                magnitudes.double().log2().tolist(),
                probability.tolist(),
                label=f"k = {k}",
                color=style.color,
                linestyle=style.linestyle,
                linewidth=1.6,
            )
    for axes, side in ((left, "x < 0 (passed)"), (right, "x > 0 (zeroed)")):
        axes.set_ylim(-0.02, 1.02)
        dress(axes, title=side, xlabel="log2 |x|", ylabel="probability of a fault" if axes is left else "")
    left.invert_xaxis()
    right.legend(fontsize=8, frameon=False)
    figure.suptitle(f"Exact fault law, {mode_name(mode)}, p = {prime}", fontsize=11)
    return figure
