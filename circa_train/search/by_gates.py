"""The allocation of least expected harm for a given number of AND gates, by the exact law alone.

It is how a search begins, without what a search goes on to try on the network: modes and scales by the law,
harm by the law and the gradients of recorded images, and the greedy path over the sites
(:mod:`circa_train.search.allocation`). Harm only rises along the path and gates only fall, so the answer is
the first allocation on it with few enough gates. It is then measured on validation and on test images. There
is no budget, and so nothing to confirm: what is lost is what was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn

from circa_train.cost import network_cost
from circa_train.data import DataSplits
from circa_train.fault import TruncatedSign
from circa_train.field import bit_length
from circa_train.search.allocation import Allocation, Tables, greedy_path
from circa_train.search.confirmation import on_test_images
from circa_train.search.frame import Allocated, begun
from circa_train.search.harm import tables_of
from circa_train.search.settings import SearchSettings


def allocate_gates(
    network: nn.Module,
    splits: DataSplits,
    spec: TruncatedSign,
    settings: SearchSettings,
    *,
    store_path: Path | None = None,
    identity: str = "",
    report: Callable[[str], None] = lambda _: None,
    progress: bool = False,
) -> Allocated:
    """Allocate ``settings.gates`` AND gates per sign test, and measure the answer.

    ``settings.draws`` says in how many draws. ``settings.joint`` chooses scales and modes as well, else the
    network stays as it is. Without ``settings.per_site`` there is one k for all sites. The other arguments
    are those of :func:`~circa_train.search.engine.search_truncation`; ``store_path`` keeps draws, so that a
    run that was cut off goes on.

    Raises:
        ValueError: if there are no gates in the settings, or fewer than a sign test can have
            (:func:`check_reach`); if the network has no stochastic site, or the splits are empty.
    """
    gates = settings.gates
    if gates is None:
        raise ValueError("gates = None: say how many AND gates a sign test may have, e.g. gates=11")
    check_reach(gates, spec)
    with begun(
        network, splits, spec, settings, store_path=store_path, identity=identity, report=report,
        progress=progress,
    ) as frame:  # fmt: skip
        choices = frame.by_the_law(settings.first_k) if settings.joint else frame.as_it_is()
        tables = tables_of(choices, frame.sites)
        limit = gates * sum(relus for _, relus in frame.sites)
        same = [(k,) * len(frame.sites) for k in range(bit_length(spec.prime))]
        path = greedy_path(tables) if settings.per_site else same
        ks = first_within(tables, path, limit)
        report(
            f"the exact law puts {len(path)} allocations in order; number {path.index(ks) + 1} is the first "
            f"with at most {gates:g} AND gates per sign test on average, and foretells a divergence of "
            f"{tables.total_harm(ks):.3g} nats"
        )
        chosen = frame.judge(splits.validation, "validation", choices, others=0)(ks)
        (chosen_test,) = on_test_images(frame.judge, splits, [chosen])
        return Allocated(
            sites=frame.sites, spec=spec, frac_bits=frame.frac_bits, chosen=chosen, chosen_test=chosen_test,
            same_k=first_within(tables, same, limit)[0], faults=choices.faults_of(ks, frame.seen),
            candidates=len(path), runs=1,
        )  # fmt: skip


def first_within(tables: Tables, path: Sequence[Allocation], limit: float) -> Allocation:
    """The first allocation of a path with at most ``limit`` AND gates per image.

    Raises:
        ValueError: if the last one has more.
    """
    for ks in path:
        if tables.total_gates(ks) <= limit:
            return ks
    raise ValueError(f"no allocation has at most {limit:g} AND gates per image")


def check_reach(gates: float, spec: TruncatedSign) -> None:
    """ValueError if no k leaves a sign test in the field of ``spec`` so few AND gates."""
    k = bit_length(spec.prime) - 1
    least = network_cost(
        [("", 1)], TruncatedSign(k, spec.mode, spec.prime), accounting="tables"
    ).and_gates
    if gates < least:
        raise ValueError(
            f"gates = {gates:g}: a truncated sign test has {least} AND gate{'s'[: least != 1]} at least, at "
            f"k = {k}; give gates={least} or more, or remove ReLUs (scripts/train.py reduction=snl)"
        )
