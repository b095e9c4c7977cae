"""The answer of a search: what it saves, as a record, and as the fault file that all scripts accept.

Savings are per image (:mod:`circa_train.search.price`), beside k = 0, and beside uniform k of the network as
it is where there was a budget, which says how large that may be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from circa_train.cost import network_cost
from circa_train.fault import SignTest, TruncatedSign
from circa_train.files import write_text
from circa_train.fixed_point import FracBits
from circa_train.search.allocation import Tables
from circa_train.search.engine import SearchResult
from circa_train.search.frame import Allocated
from circa_train.search.harm import tables_of
from circa_train.search.judging import Judgement, name_of
from circa_train.search.price import ACCOUNTING, Price, measured_rate
from circa_train.search.settings import SearchSettings


@dataclass(frozen=True)
class Answer:
    """A finished search with its prices.

    Attributes:
        result: what the search found; a :class:`SearchResult` if it was within a budget.
        settings: what it was asked for.
        untruncated, chosen: prices at k = 0, and of the answer.
        uniform: price at the uniform k of the network as it is; None where gates were asked for.
    """

    result: Allocated
    settings: SearchSettings
    untruncated: Price
    uniform: Price | None
    chosen: Price

    @classmethod
    def of(
        cls,
        result: Allocated,
        settings: SearchSettings,
        seconds: Callable[[int, int], float] | None = None,
    ) -> Answer:
        """Price a result. ``seconds(relus, and_gates)`` replaces the measurement on this machine."""
        seconds = seconds or measured_rate(result.spec)
        untruncated = TruncatedSign(0, result.spec.mode, result.spec.prime)
        uniform = result.uniform.specs if isinstance(result, SearchResult) else None
        return cls(
            result,
            settings,
            Price.of(result.sites, untruncated, seconds),
            None if uniform is None else Price.of(result.sites, uniform, seconds),
            Price.of(result.sites, result.chosen.specs, seconds),
        )

    @cached_property
    def _tables(self) -> Tables:
        return tables_of(self.result.chosen.choices, self.result.sites)

    @property
    def relus(self) -> int:
        """Sign tests per image."""
        return sum(relus for _, relus in self.result.sites)

    @property
    def harm(self) -> float:
        """The divergence of the answers in nats that the law foretells of all faults together."""
        return self._tables.total_harm(self.result.chosen.ks)

    def record(self) -> dict[str, Any]:
        """What ``result.json`` holds for kind ``search``. What says how the answer compares with uniform k,
        and whether it was confirmed, is None where gates were asked for.
        """
        result = self.result
        return {
            "gates": self.settings.gates,
            "budget": self.settings.allowed,
            "mode": result.spec.mode,
            "prime": result.spec.prime,
            "frac_bits": result.frac_bits,
            "joint": self.settings.joint,
            "warnings": list(result.warnings),
            "accounting": ACCOUNTING,
            "untruncated": asdict(self.untruncated),
            **self._beside_uniform(),
            "chosen": {
                **asdict(self.chosen),
                "validation": _judged(result.chosen),
                "test": _judged(result.chosen_test),
            },
            "relus": self.relus,
            "harm": self.harm,
            "candidates": result.candidates,
            "network_runs": result.runs,
            "allocation": self.allocation(),
        }

    def _beside_uniform(self) -> dict[str, Any]:
        result, uniform = self.result, self.uniform
        if not isinstance(result, SearchResult) or uniform is None:
            keys = ("k", "margin", "beats_uniform", "confirmed", "uniform", "scaled", "saved")
            return dict.fromkeys(keys)
        return {
            "k": result.uniform.ks[0],
            "margin": self.settings.margin,
            "beats_uniform": result.beats_uniform,
            "confirmed": result.confirmed,
            "uniform": {
                **asdict(uniform),
                "validation": _judged(result.uniform),
                "test": _judged(result.uniform_test),
            },
            "scaled": None if result.scaled is None else {"validation": _judged(result.scaled)},
            "saved": {
                name: getattr(uniform, name) - getattr(self.chosen, name)
                for name in ("and_gates", "bytes", "seconds")
            },
        }

    def allocation(self) -> list[dict[str, Any]]:
        """Per site: ReLUs, sign test, fraction bits, AND gates and expected faults per image on the
        recorded activations; and ``harm``, the divergence of the answers in nats that the law foretells of
        faults at this site alone, at ``harm_k``, the one k for all sites that the answer compares with.
        """
        chosen, same = self.result.chosen, self.result.same_k
        harms = [row[same] for row in self._tables.harm]
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
