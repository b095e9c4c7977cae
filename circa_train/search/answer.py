"""The answer of a search: what it saves, as a record, as text, and as the fault file that all scripts accept.

Savings are per image, beside uniform k and k = 0 of the network as it is: AND gates; bytes stored for
evaluation (tables, output word, labels); and seconds of garbling, evaluating and transfer on one core of this
machine. Seconds are measured for three circuits and taken to be affine in the AND gates, as every gate is the
same work: so that allocations a few gates apart compare by gates and not by the noise of a clock.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from circa_train.cost import circuits_of, measure_seconds, network_cost
from circa_train.fault import SignTest, TruncatedSign
from circa_train.field import bit_length
from circa_train.files import write_text
from circa_train.fixed_point import FracBits
from circa_train.search.engine import SearchResult
from circa_train.search.harm import tables_of
from circa_train.search.judging import Judgement, name_of
from circa_train.search.settings import SearchSettings

#: Bytes are those that evaluation takes at rest; see :mod:`circa_train.cost`.
ACCOUNTING = "labels"


@dataclass(frozen=True)
class Price:
    """What all sign tests of a network cost per image."""

    and_gates: int
    bytes: int
    seconds: float


@dataclass(frozen=True)
class Answer:
    """A finished search with its prices.

    Attributes:
        result: what the search found.
        settings: what it was asked for.
        untruncated, uniform, chosen: prices at k = 0 and at the uniform k of the network as it is, and of the
            answer.
    """

    result: SearchResult
    settings: SearchSettings
    untruncated: Price
    uniform: Price
    chosen: Price

    @classmethod
    def of(
        cls,
        result: SearchResult,
        settings: SearchSettings,
        seconds: Callable[[int, int], float] | None = None,
    ) -> Answer:
        """Price a result. ``seconds(relus, and_gates)`` replaces the measurement on this machine."""
        seconds = seconds or measured_rate(result.spec)
        untruncated = result.uniform.choices.specs_of((0,) * len(result.sites))
        specs = (untruncated, result.uniform.specs, result.chosen.specs)
        return cls(result, settings, *(_price(result, each, seconds) for each in specs))

    def record(self) -> dict[str, Any]:
        """What ``result.json`` holds for kind ``search``."""
        result = self.result
        return {
            "budget": self.settings.budget,
            "k": result.uniform.ks[0],
            "mode": result.spec.mode,
            "prime": result.spec.prime,
            "frac_bits": result.frac_bits,
            "beats_uniform": result.beats_uniform,
            "confirmed": result.confirmed,
            "margin": self.settings.margin,
            "joint": self.settings.joint,
            "warnings": list(result.warnings),
            "accounting": ACCOUNTING,
            "untruncated": asdict(self.untruncated),
            "uniform": {
                **asdict(self.uniform),
                "validation": _judged(result.uniform),
                "test": _judged(result.uniform_test),
            },
            "scaled": None if result.scaled is None else {"validation": _judged(result.scaled)},
            "chosen": {
                **asdict(self.chosen),
                "validation": _judged(result.chosen),
                "test": _judged(result.chosen_test),
            },
            "saved": {
                name: getattr(self.uniform, name) - getattr(self.chosen, name)
                for name in ("and_gates", "bytes", "seconds")
            },
            "relus": sum(relus for _, relus in result.sites),
            "candidates": result.candidates,
            "network_runs": result.runs,
            "allocation": self.allocation(),
        }

    def allocation(self) -> list[dict[str, Any]]:
        """Per site: ReLUs, sign test, fraction bits, AND gates and expected faults per image on the
        recorded activations; and ``harm``, the divergence of the answers in nats that the law foretells of
        faults at this site alone, at ``harm_k``, the largest k that would do for all sites.
        """
        chosen, same = self.result.chosen, (self.result.scaled or self.result.uniform).ks[0]
        harms = [row[same] for row in tables_of(chosen.choices, self.result.sites).harm]
        costs = network_cost(self.result.sites, chosen.specs, accounting="tables").sites
        frac_bits = _plain(chosen.choices.frac_bits_of(chosen.ks))
        return [
            {
                "site": cost.site,
                "relus": cost.relus,
                "k": k,
                "mode": chosen.specs[cost.site].mode,
                "frac_bits": frac_bits if isinstance(frac_bits, int) else frac_bits[cost.site],
                "and_gates": cost.and_gates,
                "expected_faults": cost.relus * faults,
                "harm": harm,
                "harm_k": same,
            }
            for cost, k, faults, harm in zip(costs, chosen.ks, self.result.faults, harms, strict=True)
        ]


def measured_rate(spec: TruncatedSign) -> Callable[[int, int], float]:
    """Seconds as a function of (ReLUs, AND gates): an affine fit through three circuits of this field, timed
    here and now.
    """
    bits = bit_length(spec.prime)
    circuits = [
        c for k in (0, bits // 2, bits - 1) for c in circuits_of(TruncatedSign(k, spec.mode, spec.prime))
    ]
    timed = measure_seconds(circuits)
    gates = [circuit.circuit.and_gates for circuit in timed]
    slope, constant = statistics.linear_regression(gates, [seconds.total for seconds in timed.values()])
    return lambda relus, and_gates: constant * relus + slope * and_gates


def summary(answer: Answer, path: Path) -> str:
    """The answer in a few lines, plainly: what was found, what it saves, and whether test images confirm
    it.
    """
    result = answer.result
    uniform, chosen = answer.uniform, answer.chosen
    lines = [
        f"as it is: {result.uniform}",
        f"         {_priced(uniform)}; {1 - uniform.and_gates / answer.untruncated.and_gates:.1%} fewer "
        "gates than k = 0",
    ]
    if result.scaled is not None:
        lines.append(f"scales and modes by the law, uniform: {result.scaled}")
    if result.beats_uniform:
        saved = 1 - chosen.and_gates / uniform.and_gates
        lines += [
            f"the answer: {result.chosen}",
            f"         {_priced(chosen)}; {saved:.1%} fewer gates than uniform k on the network as it is",
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
    lines += [f"warning: {warning}" for warning in result.warnings]
    lines.append(f"fault=file fault.path={path}")
    return "\n".join(lines)


def fault_file(
    sites: Mapping[str, SignTest], frac_bits: int | Mapping[str, FracBits], remarks: Sequence[str] = ()
) -> str:
    """The text of a fault file: remarks as comments, ``frac_bits`` (one number, or by site), and one sign
    test per site. YAML.
    """
    specs = {name: spec.to_dict() for name, spec in sites.items()}
    content = {"frac_bits": _plain(frac_bits), "sites": specs}
    comments = [f"# {line}" for remark in remarks for line in remark.splitlines()]
    return "\n".join(
        [*comments, yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=120)]
    )


def _plain(frac_bits: int | Mapping[str, FracBits]) -> int | dict[str, int | list[int]]:
    """Fraction bits as JSON and YAML have them."""
    if isinstance(frac_bits, int):
        return frac_bits
    return {name: bits if isinstance(bits, int) else list(bits) for name, bits in frac_bits.items()}


def write_fault_file(path: Path, answer: Answer, remarks: Sequence[str] = ()) -> Path:
    """Write the answer atomically as a fault file, and return its path."""
    chosen = answer.result.chosen
    write_text(path, fault_file(chosen.specs, chosen.choices.frac_bits_of(chosen.ks), remarks))
    return path


def _price(
    result: SearchResult, specs: Mapping[str, TruncatedSign], seconds: Callable[[int, int], float]
) -> Price:
    cost = network_cost(result.sites, specs, accounting=ACCOUNTING)
    return Price(cost.and_gates, cost.bytes, seconds(cost.relus, cost.and_gates))


def _priced(price: Price) -> str:
    return f"{price.and_gates:,} AND gates, {price.bytes / 2**20:.2f} MiB, {price.seconds:.3f} s per image"


def _judged(judgement: Judgement) -> dict[str, Any]:
    low, high = judgement.evaluation.interval
    loss_low, loss_high = judgement.loss_interval
    return {
        "ks": name_of(judgement.ks),
        "choices": judgement.choices.name,
        "verdict": judgement.verdict,
        "margin": judgement.margin,
        "accuracy": {
            "mean": judgement.evaluation.mean,
            "low": low,
            "high": high,
            "draws": list(judgement.evaluation.accuracies),
            "images": judgement.evaluation.images,
        },
        "baseline_accuracy": judgement.exact,
        "loss": {"mean": judgement.loss, "low": loss_low, "high": loss_high},
    }
