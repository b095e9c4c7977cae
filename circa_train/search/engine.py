"""The search: the largest uniform k within an accuracy budget, and then one k per site that saves more AND
gates.

1. *Uniform k*, by bisection: accuracy falls as k rises, so a handful of candidates are run.
2. *Sensitivity*: each site alone gets faults once, at the first k that was too much for all of them, and the
exact law extends
   the measurement to every k (:mod:`circa_train.search.harm`).
3. *Greedy path* (:mod:`circa_train.search.allocation`): hundreds of allocations in the order of predicted
harm. Those below the
   harm of the uniform answer are taken to be within the budget, those above the harm of the uniform k that
   failed to be over it; between, and wherever that turns out wrong, the network decides, by bisection.
4. *Refinement*: from the best so far, single bits at single sites, the one that saves most first; what the
law foretells to
   harm more than a candidate that failed is left out.

Everything is decided on validation images. The uniform answer and the per-site answer are then measured on
test images, which is reported and decides nothing. If no allocation within the budget needs fewer gates than
uniform k, the answer is uniform k.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from circa_train.cost import network_cost
from circa_train.data import DataSplits, ImageSet
from circa_train.fault import TruncatedSign
from circa_train.field import bit_length
from circa_train.fixed_point import FracBits
from circa_train.nn import described_frac_bits, relu_sites, set_specs, stochastic_relus
from circa_train.search.allocation import Allocation, Tables, greedy_path, last_accepted
from circa_train.search.harm import SiteLaw, site_gains, site_laws
from circa_train.search.judging import Judge, Judgement
from circa_train.search.settings import SearchSettings
from circa_train.search.store import Store


@dataclass(frozen=True)
class SearchResult:
    """The answer of a search.

    Attributes:
        sites: (name, ReLUs per image) in the order of execution.
        spec: mode and prime of the sign tests.
        frac_bits: fraction bits of the network: one number, or by site.
        uniform: the largest uniform k within the budget, on validation images.
        chosen: the answer: the allocation within the budget with the fewest AND gates.
        uniform_test, chosen_test: the same two on test images.
        laws: expected faults and errors by site and k; empty without a per-site search.
        candidates: how many allocations were considered, and
        runs: how many of them took network runs.
    """

    sites: tuple[tuple[str, int], ...]
    spec: TruncatedSign
    frac_bits: int | dict[str, FracBits]
    uniform: Judgement
    chosen: Judgement
    uniform_test: Judgement
    chosen_test: Judgement
    laws: tuple[SiteLaw, ...]
    candidates: int
    runs: int

    @property
    def beats_uniform(self) -> bool:
        return self.chosen.ks != self.uniform.ks


def search_truncation(
    network: nn.Module,
    splits: DataSplits,
    spec: TruncatedSign,
    settings: SearchSettings | None = None,
    *,
    store_path: Path | None = None,
    identity: str = "",
    report: Callable[[str], None] = lambda _: None,
    progress: bool = False,
) -> SearchResult:
    """Search for the bits that ``network`` can do without.

    Args:
        network: a converted network; its fraction bits, seed and overflow policy hold for the search, its
            sign tests come back.
        splits: its data; ``validation`` decides, ``test`` confirms.
        spec: mode and prime of the sign tests; its k says nothing (``settings.first_k`` does).
        settings: the budget, and how hard to look.
        store_path: where measurements are kept, so that a search that was cut off goes on; None keeps
            nothing.
        identity: names network and data; measurements under another identity are not used.
        report: called with a line of text after every decision.
        progress: show bars on a terminal, and elsewhere log a line now and then.

    Raises:
        ValueError: if the network has no stochastic site, the splits are empty, or not even k = 0 is within
            the budget.
    """
    settings = settings or SearchSettings()
    relus = stochastic_relus(network)
    if not relus:
        raise ValueError("the network has no stochastic ReLU; convert it with with_stochastic_relus first")
    if not len(splits.validation) or not len(splits.test):
        raise ValueError(
            f"{splits.name} has {len(splits.validation)} validation and {len(splits.test)} test images; "
            "the search needs both (data.validation_fraction sets some of the training images aside)"
        )
    before = {name: relu.spec for name, relu in relus.items()}
    store = Store(store_path, identity)
    judge = partial(
        Judge, network, mean=splits.mean, std=splits.std, spec=spec, settings=settings, store=store,
        report=report,
        progress=progress,
    )  # fmt: skip
    try:
        return _search(network, splits, spec, settings, judge, store, report, progress)
    finally:
        set_specs(network, before)


def _search(
    network: nn.Module,
    splits: DataSplits,
    spec: TruncatedSign,
    settings: SearchSettings,
    make_judge: Callable[[ImageSet, str], Judge],
    store: Store,
    report: Callable[[str], None],
    progress: bool,
) -> SearchResult:
    sites = tuple(relu_sites(network, (splits.channels, splits.image_size, splits.image_size)))
    judge = make_judge(splits.validation, "validation")
    bits = bit_length(spec.prime)
    if settings.budget < 1 / len(splits.validation):
        report(
            f"note: the budget of {settings.budget:g} is less than one of {len(splits.validation)} "
            "validation images; "
            "only candidates that lose none are within it"
        )
    uniform = judge((_uniform_k(judge, len(sites), bits, settings),) * len(sites))
    best, laws, candidates = uniform, [], bits
    if settings.per_site and len(sites) > 1:
        some = splits.validation.subset(torch.arange(min(settings.images, len(splits.validation))))
        laws = site_laws(network, some, spec, mean=splits.mean, std=splits.std)
        reference = TruncatedSign(min(uniform.ks[0] + 1, bits - 1), spec.mode, spec.prime)
        gains = site_gains(
            network, some, laws, reference,
            mean=splits.mean, std=splits.std, batch_size=settings.batch_size, store=store, progress=progress,
        )  # fmt: skip
        tables = Tables(
            gates=tuple(
                tuple(_gates(site, TruncatedSign(k, spec.mode, spec.prime)) for k in range(bits))
                for site in sites
            ),
            harm=tuple(
                tuple(gain * error for error in law.error) for gain, law in zip(gains, laws, strict=True)
            ),
        )
        best, considered = _along_path(judge, tables, uniform, report)
        candidates += considered
        best, considered = _refine(judge, tables, best, settings.trials)
        candidates += considered
    runs = len(judge.judged)
    confirm = make_judge(splits.test, "test")
    return SearchResult(
        sites, spec, described_frac_bits(network),
        uniform, best, confirm(uniform.ks), confirm(best.ks), tuple(laws), candidates, runs,
    )  # fmt: skip


def _uniform_k(judge: Judge, sites: int, bits: int, settings: SearchSettings) -> int:
    """The largest k that is within the budget at all sites."""
    first = min(settings.first_k, bits - 1)

    def accept(k: int) -> bool:
        return judge((k,) * sites).within

    k = last_accepted(accept, bits, first, bits) if accept(first) else last_accepted(accept, first, -1, first)
    if k is None:
        judged = judge((0,) * sites)
        raise ValueError(
            f"not even k = 0 is within the budget of {settings.budget:g}: it loses {judged.loss:.4f} of "
            "accuracy "
            f"{judged.exact:.4f} over {len(judged.evaluation.accuracies)} draws ({judged.verdict}). Faults "
            "without "
            "truncation are wraps, |x|/p each: lower fault.frac_bits, or fine-tune with the faults in the "
            "loop. Where it is "
            "undecided, a larger budget or more draws may help, too"
        )
    return k


def _along_path(
    judge: Judge, tables: Tables, uniform: Judgement, report: Callable[[str], None]
) -> tuple[Judgement, int]:
    """The furthest allocation on the greedy path that is within the budget and cheaper than ``uniform``, or
    ``uniform``.
    """
    limit = tables.total_gates(uniform.ks)
    path = greedy_path(tables)
    cheaper = [ks for ks in path if tables.total_gates(ks) < limit]
    if not cheaper:
        return uniform, len(path)
    harms = [tables.total_harm(ks) for ks in cheaper]
    low = sum(harm <= tables.total_harm(uniform.ks) for harm in harms) - 1
    high = sum(harm < _least_failed(judge, tables, uniform) for harm in harms)
    report(
        f"the exact law puts {len(path)} allocations in order; of {len(cheaper)} that are cheaper than "
        "uniform k it takes "
        f"{low + 1} to be within the budget and {len(cheaper) - high} over it"
    )
    index = last_accepted(lambda i: judge(cheaper[i]).within, len(cheaper), max(low, 0), high)
    return (uniform if index is None else judge(cheaper[index])), len(path)


def _refine(judge: Judge, tables: Tables, best: Judgement, trials: int) -> tuple[Judgement, int]:
    """Raise single sites by single bits as long as the budget lasts: (the best then, how many moves were
    considered).
    """
    considered: set[Allocation] = set()
    while trials > 0:
        limit = _least_failed(judge, tables, best)
        moves = [ks for _, ks in tables.raised(best.ks)]
        considered.update(moves)
        open_moves = [ks for ks in moves if ks not in judge.judged and tables.total_harm(ks) < limit]
        if not open_moves:
            break
        judged = judge(min(open_moves, key=lambda ks: (tables.total_gates(ks), tables.total_harm(ks))))
        best = judged if judged.within else best
        trials -= 1
    return best, len(considered)


def _least_failed(judge: Judge, tables: Tables, best: Judgement) -> float:
    """The least predicted harm that failed; what failed at less harm than ``best`` bears shows only that
    predictions err.
    """
    borne = tables.total_harm(best.ks)
    harms = (tables.total_harm(ks) for ks, judged in judge.judged.items() if not judged.within)
    return min((harm for harm in harms if harm > borne), default=math.inf)


def _gates(site: tuple[str, int], spec: TruncatedSign) -> int:
    return network_cost([site], spec, accounting="tables").and_gates
