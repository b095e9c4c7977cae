"""The answer of a search in a few lines of text."""

from __future__ import annotations

from pathlib import Path

from circa_train.search.answer import Answer
from circa_train.search.engine import SearchResult
from circa_train.search.judging import name_of


def summary(answer: Answer, path: Path) -> str:
    """The answer in a few lines, plainly: what was found, what it saves, and what test images say of it."""
    result = answer.result
    lines = _within(answer, result) if isinstance(result, SearchResult) else _by_gates(answer)
    lines += [f"warning: {warning}" for warning in result.warnings]
    lines.append(f"fault=file fault.path={path}")
    return "\n".join(lines)


def _within(answer: Answer, result: SearchResult) -> list[str]:
    uniform, chosen = answer.uniform, answer.chosen
    assert uniform is not None
    lines = [
        f"as it is: {result.uniform}",
        f"         {uniform}; {1 - uniform.and_gates / answer.untruncated.and_gates:.1%} fewer "
        "gates than k = 0",
    ]
    if result.scaled is not None:
        lines.append(f"scales and modes by the law, uniform: {result.scaled}")
    if result.beats_uniform:
        saved = 1 - chosen.and_gates / uniform.and_gates
        lines += [
            f"the answer: {result.chosen}",
            f"         {chosen}; {saved:.1%} fewer gates than uniform k on the network as it is",
        ]
    elif answer.settings.per_site or answer.settings.joint:
        lines.append("no allocation found within the budget beats uniform k; the answer is uniform k")
    lines.append(
        f"{result.candidates} candidates, of which {result.runs} took network runs; the exact law decided "
        "the others"
    )
    confirmed = "CONFIRMED" if result.confirmed else "NOT CONFIRMED"
    lines.append(
        f"test images, {confirmed}: {result.chosen_test} (budget {100 * answer.settings.budget:g} points)"
    )
    return lines


def _by_gates(answer: Answer) -> list[str]:
    result, chosen = answer.result, answer.chosen
    saved = 1 - chosen.and_gates / answer.untruncated.and_gates
    evaluation = result.chosen_test.evaluation
    low, high = evaluation.interval
    return [
        f"the answer: {name_of(result.chosen.ks)}, {result.chosen.choices.name}: "
        f"{chosen.and_gates / answer.relus:.3f} AND gates per sign test on average, at most "
        f"{answer.settings.gates:g} asked",
        f"         {chosen}; {saved:.1%} fewer gates than k = 0",
        f"the exact law alone chose it among {result.candidates} allocations, and foretells a divergence of "
        f"{answer.harm:.3g} nats",
        f"validation images: {result.chosen}",
        f"test images: {result.chosen_test}",
        f"         accuracy {evaluation.mean:.2%} [{low:.2%}, {high:.2%}], with exact ReLUs "
        f"{result.chosen_test.exact:.2%}",
    ]
