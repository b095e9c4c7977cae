"""The answer of a search: what it saves, as a record, as text, and as the fault file that all scripts accept.

Savings are per image, beside uniform k and beside k = 0: AND gates; bytes stored for evaluation (tables,
output word, labels); and seconds of garbling, evaluating and transfer on one core of this machine. Seconds
are measured for three circuits and taken to be affine in the AND gates, as every gate is the same work: so
that allocations a few gates apart compare by gates and not by the noise of a clock.
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
from circa_train.search.judging import Allocation, Judgement, name_of, specs_of
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
        untruncated, uniform, chosen: prices at k = 0, at the uniform k, and of the answer.
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
        flat = (0,) * len(result.sites)
        prices = [_price(result, ks, seconds) for ks in (flat, result.uniform.ks, result.chosen.ks)]
        return cls(result, settings, *prices)

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
            "confirmed": result.chosen_test.within,
            "accounting": ACCOUNTING,
            "untruncated": asdict(self.untruncated),
            "uniform": {
                **asdict(self.uniform),
                "validation": _judged(result.uniform),
                "test": _judged(result.uniform_test),
            },
            "chosen": {
                **asdict(self.chosen),
                "validation": _judged(result.chosen),
                "test": _judged(result.chosen_test),
            },
            "saved": {
                name: getattr(self.uniform, name) - getattr(self.chosen, name)
                for name in ("and_gates", "bytes", "seconds")
            },
            "candidates": result.candidates,
            "network_runs": result.runs,
            "allocation": self.allocation(),
        }

    def allocation(self) -> list[dict[str, Any]]:
        """Per site: ReLUs, k, AND gates per image, and expected faults per image on the recorded
        activations.
        """
        result = self.result
        specs = _specs(result, result.chosen.ks)
        costs = network_cost(result.sites, specs, accounting="tables").sites
        faults = {law.site: law.faults for law in result.laws}
        return [
            {
                "site": cost.site,
                "relus": cost.relus,
                "k": k,
                "and_gates": cost.and_gates,
                "expected_faults": cost.relus * faults[cost.site][k] if cost.site in faults else None,
            }
            for cost, k in zip(costs, result.chosen.ks, strict=True)
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
        f"uniform: {result.uniform}",
        f"         {_priced(uniform)}; {1 - uniform.and_gates / answer.untruncated.and_gates:.1%} fewer "
        "gates than k = 0",
    ]
    if result.beats_uniform:
        saved = 1 - chosen.and_gates / uniform.and_gates
        lines += [
            f"per site: {result.chosen}",
            f"         {_priced(chosen)}; {saved:.1%} fewer gates than uniform k",
        ]
    elif answer.settings.per_site:
        lines.append("no allocation by site found within the budget beats uniform k; the answer is uniform k")
    lines.append(
        f"{result.candidates} candidates, of which {result.runs} took network runs; the exact law decided "
        "the others"
    )
    confirmed = "confirmed" if result.chosen_test.within else "NOT CONFIRMED"
    lines.append(
        f"test images, {confirmed}: {result.chosen_test} (budget {100 * answer.settings.budget:g} points)"
    )
    lines.append(f"fault=file fault.path={path}")
    return "\n".join(lines)


def fault_file(
    sites: Mapping[str, SignTest], frac_bits: int | Mapping[str, FracBits], remarks: Sequence[str] = ()
) -> str:
    """The text of a fault file: remarks as comments, ``frac_bits`` (one number, or by site), and one sign
    test per site. YAML.
    """
    if isinstance(frac_bits, Mapping):
        frac_bits = {name: bits if isinstance(bits, int) else list(bits) for name, bits in frac_bits.items()}
    content = {"frac_bits": frac_bits, "sites": {name: spec.to_dict() for name, spec in sites.items()}}
    comments = [f"# {line}" for remark in remarks for line in remark.splitlines()]
    return "\n".join(
        [*comments, yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=120)]
    )


def write_fault_file(path: Path, answer: Answer, remarks: Sequence[str] = ()) -> Path:
    """Write the answer atomically as a fault file, and return its path."""
    result = answer.result
    write_text(path, fault_file(_specs(result, result.chosen.ks), result.frac_bits, remarks))
    return path


def _specs(result: SearchResult, ks: Allocation) -> dict[str, TruncatedSign]:
    return specs_of([name for name, _ in result.sites], ks, result.spec)


def _price(result: SearchResult, ks: Allocation, seconds: Callable[[int, int], float]) -> Price:
    cost = network_cost(result.sites, _specs(result, ks), accounting=ACCOUNTING)
    return Price(cost.and_gates, cost.bytes, seconds(cost.relus, cost.and_gates))


def _priced(price: Price) -> str:
    return f"{price.and_gates:,} AND gates, {price.bytes / 2**20:.2f} MiB, {price.seconds:.3f} s per image"


def _judged(judgement: Judgement) -> dict[str, Any]:
    low, high = judgement.evaluation.interval
    loss_low, loss_high = judgement.loss_interval
    return {
        "ks": name_of(judgement.ks),
        "verdict": judgement.verdict,
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
