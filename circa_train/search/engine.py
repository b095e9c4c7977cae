"""The search: the fewest AND gates within an accuracy budget, over one k per site, one mode per site, and one
scale per channel.

1. *The network as it is*: its largest uniform k within the budget, by bisection. Accuracy falls as k rises,
   so a handful of candidates are run. This is what the answer is compared with.
2. *By the law*: for every k, the better mode of every site and the best scale of every channel
   (:mod:`circa_train.search.choices`); again the largest uniform k, by bisection.
3. *Harm*: what every k at every site will do to the answers, by the exact law and the gradients of recorded
   images (:mod:`circa_train.search.harm`).
4. *Greedy path* (:mod:`circa_train.search.allocation`): hundreds of allocations in the order of predicted
   harm. Those below the harm of the uniform answer are taken to be within the budget, those above the harm
   of the uniform k that failed to be over it; between, and wherever that turns out wrong, the network
   decides, by bisection.
5. *Refinement*: from the best so far, single bits at single sites, the one that saves most first; what the
   law foretells to harm more than a candidate that failed is left out.

Everything is decided on validation images, with a margin for others (:mod:`circa_train.search.judging`). The
first and the last answer are then measured on test images, which is reported and decides nothing.
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
from circa_train.data import Batches, DataSplits
from circa_train.fault import TruncatedSign
from circa_train.field import bit_length
from circa_train.fixed_point import FracBits
from circa_train.nn import described_frac_bits, relu_sites, set_frac_bits, set_specs, stochastic_relus
from circa_train.nn.site_values import SiteValues, site_values
from circa_train.search.allocation import Allocation, Tables, greedy_path, last_accepted
from circa_train.search.choices import as_it_is, by_the_law
from circa_train.search.confirmation import on_test_images, seen_before
from circa_train.search.harm import tables_of
from circa_train.search.judging import Judge, Judgement
from circa_train.search.settings import SearchSettings
from circa_train.search.store import Store

#: Images per batch of the recorded pass.
_RECORDED = 64

#: Below the uniform k by so many bits, truncation does next to nothing: no scales are searched for.
_LOWER = 3


@dataclass(frozen=True)
class SearchResult:
    """The answer of a search.

    Attributes:
        sites: (name, ReLUs per image) in the order of execution.
        spec: mode and prime of the network as it is.
        frac_bits: fraction bits of the network as it is.
        uniform: the largest uniform k within the budget, of the network as it is, on validation images.
        scaled: the same with scales and modes by the law; None if the search was not joint.
        chosen: the answer: the allocation within the budget with the fewest AND gates.
        uniform_test, chosen_test: the first and the last on test images.
        faults: by the law, faults to expect per activation of each site under ``chosen``.
        candidates: how many allocations were considered, and
        runs: how many of them took network runs.
        warnings: what may make the answer worth less than it seems.
    """

    sites: tuple[tuple[str, int], ...]
    spec: TruncatedSign
    frac_bits: int | dict[str, FracBits]
    uniform: Judgement
    scaled: Judgement | None
    chosen: Judgement
    uniform_test: Judgement
    chosen_test: Judgement
    faults: tuple[float, ...]
    candidates: int
    runs: int
    warnings: tuple[str, ...] = ()

    @property
    def beats_uniform(self) -> bool:
        """Does the answer need fewer AND gates than a uniform k of the network as it is?"""
        return self.chosen != self.uniform

    @property
    def confirmed(self) -> bool:
        """Is the answer within the budget on test images, too?"""
        return self.chosen_test.within


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
        network: a converted network; seed and overflow policy hold for the search, its sign tests and
            fraction bits come back.
        splits: its data; activations are recorded on ``train``, ``validation`` decides, ``test`` confirms.
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
    specs = {name: relu.spec for name, relu in relus.items()}
    frac_bits = {name: relu.frac_bits for name, relu in relus.items()}
    store = Store(store_path, identity)
    try:
        return _search(network, splits, spec, settings, store, report, progress)
    finally:
        set_frac_bits(network, frac_bits)
        set_specs(network, specs)


def _search(
    network: nn.Module,
    splits: DataSplits,
    spec: TruncatedSign,
    settings: SearchSettings,
    store: Store,
    report: Callable[[str], None],
    progress: bool,
) -> SearchResult:
    sites = tuple(relu_sites(network, (splits.channels, splits.image_size, splits.image_size)))
    frac_bits, bits = described_frac_bits(network), bit_length(spec.prime)
    make_judge = partial(
        Judge, network, mean=splits.mean, std=splits.std, settings=settings, store=store, report=report,
        progress=progress,
    )  # fmt: skip
    if settings.budget < 1 / len(splits.validation):
        report(
            f"note: the budget of {settings.budget:g} is less than one of {len(splits.validation)} "
            "validation images; "
            "only candidates that lose none are within it"
        )
    seen = _recorded(network, splits, settings)
    plain = make_judge(
        splits.validation, "validation", as_it_is(network, seen, spec), others=len(splits.test)
    )
    uniform = plain((_uniform_k(plain, len(sites), bits, settings),) * len(sites))
    judge, best, scaled, candidates = plain, uniform, None, bits
    if settings.joint:
        first_k = max(_only(uniform.ks) - _LOWER, 0)
        choices = by_the_law(seen, spec, first_k, settings.headroom_bits)
        judge = make_judge(splits.validation, "validation", choices, others=len(splits.test))
        k = last_accepted(
            lambda k: judge((k,) * len(sites)).within, bits, _only(uniform.ks), _only(uniform.ks) + 2
        )
        scaled = judge(((0 if k is None else k),) * len(sites))
        best, candidates = scaled, candidates + bits
    if settings.per_site and len(sites) > 1 and best.within:
        tables = tables_of(judge.choices, sites)
        best, considered = _along_path(judge, tables, best, report)
        candidates += considered
        best, considered = _refine(judge, tables, best, settings.trials)
        candidates += considered
    if not best.within or _gates(best, sites) >= _gates(uniform, sites):
        best = uniform
    uniform_test, best_test = on_test_images(make_judge, splits, (uniform, best))
    return SearchResult(
        sites, spec, frac_bits, uniform, scaled, best, uniform_test, best_test,
        faults=best.choices.faults_of(best.ks, seen), candidates=candidates,
        runs=len(plain.judged) + (len(judge.judged) if judge is not plain else 0),
        warnings=seen_before(store),
    )  # fmt: skip


def _recorded(network: nn.Module, splits: DataSplits, settings: SearchSettings) -> dict[str, SiteValues]:
    """The activations of some training images at every site, and what each counts."""
    images = splits.train.subset(torch.arange(min(settings.images, len(splits.train))))
    batches = Batches(images, _RECORDED, mean=splits.mean, std=splits.std)
    return site_values(network, (batch[0] for batch in batches), importance=True)


def _only(ks: Allocation) -> int:
    """The k of an allocation that has one."""
    return ks[0]


def _uniform_k(judge: Judge, sites: int, bits: int, settings: SearchSettings) -> int:
    """The largest k that is within the budget at all sites."""
    first = min(settings.first_k, bits - 1)

    def accept(k: int) -> bool:
        return judge((k,) * sites).within

    k = last_accepted(accept, bits, first, bits) if accept(first) else last_accepted(accept, first, -1, first)
    if k is None:
        judged = judge((0,) * sites)
        lost = (
            f"not even k = 0 is within the budget of {settings.budget:g}: it loses {judged.loss:.4f} of "
            f"accuracy {judged.exact:.4f} over {len(judged.evaluation.accuracies)} draws, with a margin of "
            f"{judged.margin:.4f} ({judged.verdict}). "
        )
        if judged.margin >= settings.budget:
            raise ValueError(
                f"{lost}The margin alone is as large as the budget, so no k can be within it: few images "
                f"({judged.evaluation.images} decide) say little of others. Let more images decide "
                "(decide_on=test, or a larger validation set), or give a larger budget, or margin=0"
            )
        raise ValueError(
            f"{lost}Faults without truncation are wraps, |x|/p each: lower fault.frac_bits, or fine-tune "
            "with the faults in the loop. Where it is undecided, more validation images or more draws may "
            "help, too"
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


def _gates(judged: Judgement, sites: tuple[tuple[str, int], ...]) -> int:
    return network_cost(sites, judged.specs, accounting="tables").and_gates
