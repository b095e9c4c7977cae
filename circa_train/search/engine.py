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
from pathlib import Path

from torch import nn

from circa_train.cost import network_cost
from circa_train.data import DataSplits
from circa_train.fault import TruncatedSign
from circa_train.field import bit_length
from circa_train.search.allocation import Allocation, Tables, greedy_path, last_accepted
from circa_train.search.confirmation import on_test_images, overflowed, seen_before
from circa_train.search.frame import Allocated, Frame, begun
from circa_train.search.harm import tables_of
from circa_train.search.judging import Judge, Judgement
from circa_train.search.settings import SearchSettings

#: Below the uniform k by so many bits, truncation does next to nothing: no scales are searched for.
_LOWER = 3


@dataclass(frozen=True, kw_only=True)
class SearchResult(Allocated):
    """The answer of a search within a budget: the allocation within it with the fewest AND gates, beside

    Attributes:
        uniform: the largest uniform k within the budget, of the network as it is, on validation images, and
        uniform_test: on test images.
        scaled: the largest with scales and modes by the law, on validation images; None if the search was not
            joint.
    """

    uniform: Judgement
    uniform_test: Judgement
    scaled: Judgement | None

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
        ValueError: if the network has no stochastic site, the splits are empty, not even k = 0 is within the
            budget, or the settings ask for a number of gates (:mod:`circa_train.search.by_gates`).
    """
    settings = settings or SearchSettings()
    if settings.gates is not None:
        raise ValueError(
            f"gates = {settings.gates:g}: a search within a budget takes none; call allocate_gates"
        )
    with begun(
        network, splits, spec, settings, store_path=store_path, identity=identity, report=report,
        progress=progress,
    ) as frame:  # fmt: skip
        return _search(frame)


def _search(frame: Frame) -> SearchResult:
    splits, sites, settings, report = frame.splits, frame.sites, frame.settings, frame.report
    bits = bit_length(frame.spec.prime)
    if settings.budget < 1 / len(splits.validation):
        report(
            f"note: the budget of {settings.budget:g} is less than one of {len(splits.validation)} "
            "validation images; "
            "only candidates that lose none are within it"
        )
    others = len(splits.test)
    plain = frame.judge(splits.validation, "validation", frame.as_it_is(), others=others)
    k = _uniform_k(plain, len(sites), bits, settings)
    uniform = plain((k,) * len(sites))
    judge, best, scaled, candidates = plain, uniform, None, bits
    if settings.joint:
        choices = frame.by_the_law(max(k - _LOWER, 0))
        judge = frame.judge(splits.validation, "validation", choices, others=others)
        found = last_accepted(lambda k: judge((k,) * len(sites)).within, bits, k, k + 2)
        k = 0 if found is None else found
        best = scaled = judge((k,) * len(sites))
        candidates += bits
    if settings.per_site and len(sites) > 1 and best.within:
        tables = tables_of(judge.choices, sites)
        best, considered = _along_path(judge, tables, best, report)
        candidates += considered
        best, considered = _refine(judge, tables, best, settings.trials)
        candidates += considered
    if not best.within or _gates(best, sites) >= _gates(uniform, sites):
        best = uniform
    uniform_test, best_test = on_test_images(frame.judge, splits, (uniform, best))
    return SearchResult(
        sites=sites, spec=frame.spec, frac_bits=frame.frac_bits, uniform=uniform, scaled=scaled, chosen=best,
        uniform_test=uniform_test, chosen_test=best_test, same_k=k,
        faults=best.choices.faults_of(best.ks, frame.seen), candidates=candidates,
        runs=len(plain.judged) + (len(judge.judged) if judge is not plain else 0),
        warnings=(*seen_before(frame.store), *overflowed({plain, judge}, settings.headroom_bits)),
    )  # fmt: skip


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
