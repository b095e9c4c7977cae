"""The outcome of a verification as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from circa_train.cost import CircuitCost
from circa_train.text import aligned
from circa_train.verify.checking import SiteReport
from circa_train.verify.rates import rates
from circa_train.verify.rescaling import RescaleReport
from circa_train.verify.tally import SiteTally


def verification_table(reports: Sequence[SiteReport], circuits: Mapping[str, Sequence[CircuitCost]]) -> str:
    """One line per site: what was compared, faults (positive values zeroed / negative ones passed), and per
    ReLU what the four circuits (a) to (d) weigh and take.

    Args:
        reports: the sites.
        circuits: the four circuits at each site, measured, from :func:`circa_train.cost.compare_circuits`.

    Bytes are those of the accounting ``ot``; nanoseconds those of garbling, transferring and evaluating
    together.
    """
    head = [
        "site",
        "k",
        "values",
        "wrap z/p",
        "trunc. z/p",
        "mismatches",
        "B per ReLU (a)/(b)/(c)/(d)",
        "ns (a)/(b)/(c)/(d)",
    ]
    lines = [head]
    for report in reports:
        faults, four = report.faults, circuits[report.site]
        lines.append([
            report.site,
            "-".join(str(k) for k in dict.fromkeys((report.ks[0], report.ks[-1]))),
            f"{report.values:,}",
            f"{faults.wrap_zeroed:.0f}/{faults.wrap_passed:.0f}",
            f"{faults.truncation_zeroed:.0f}/{faults.truncation_passed:.0f}",
            str(sum(report.mismatches.values())),
            "/".join(f"{circuit.bytes['ot']:.0f}" for circuit in four),
            "/".join(f"{1e9 * circuit.seconds.total:.0f}" if circuit.seconds else "-" for circuit in four),
        ])  # fmt: skip
    return aligned(lines, left=2)


def rescaling_table(reports: Sequence[RescaleReport]) -> str:
    """One line per rescaling: in which ReLU's round trip, what was compared, how often it rounded up, and
    what the two parties sent per value.
    """
    lines = [["rescaling", "bits", "rides with", "values", "up", "mismatches", "B per value"]]
    for report in reports:
        lines.append([
            report.layer,
            str(report.bits),
            report.site or "-",
            f"{report.values:,}",
            f"{report.up:,}",
            str(sum(report.mismatches.values())),
            f"{report.sent_bytes / report.values:.0f}",
        ])  # fmt: skip
    return aligned(lines, left=1)


def every_table(tallies: Mapping[str, SiteTally]) -> str:
    """One line per site whose every sign test was verified: what was compared, which faults there were, and
    for each kind how many standard deviations they are from what the exact law expects.
    """
    kinds = list(dict.fromkeys(kind for tally in tallies.values() for kind in tally.expected))
    head = ["site", "compared", "zeroed", "passed", "wraps", "ties", "mismatches"]
    lines = [[*head, *(f"z {kind}" for kind in kinds)]]
    for site, tally in tallies.items():
        found = rates(tally)
        counts = (tally.compared, tally.zeroed, tally.passed, tally.wraps, tally.ties)
        scores = [found[kind].z if kind in found else None for kind in kinds]
        lines.append([
            site,
            *(f"{count:,}" for count in counts),
            str(sum(tally.mismatches.values())),
            *("-" if score is None else f"{score:+.2f}" for score in scores),
        ])  # fmt: skip
    return aligned(lines, left=1)
