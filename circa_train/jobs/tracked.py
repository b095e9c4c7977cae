"""What a tracker is told of a job: its name in Weights & Biases, and the numbers of its record.

A training tells of its epochs itself. Of any other job, ``metrics.jsonl`` and the mirror get a row for every
step that the record lists (a fault draw, a site), and then what the whole job came to: accuracy and its
interval, k, cost. What ``scripts/plot.py`` collects and draws is shown in a run of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from circa_train.jobs.settings import TrackerConfig
from circa_train.runs import Row, Tracker, WandbSettings, flatten
from circa_train.runs.table import columns
from circa_train.runs.wandb_mirror import WandbTracker, import_wandb, wandb_mode

#: What records call a number, by dotted path, and what it is called in metrics; a path that a record does not
#: have says nothing.
NUMBERS = {
    "accuracy.mean": "accuracy",
    "accuracy.low": "accuracy_low",
    "accuracy.high": "accuracy_high",
    "accuracy.std": "accuracy_std",
    "accuracy.images": "images",
    "baseline_accuracy": "baseline_accuracy",
    "difference.mean": "integer_minus_simulator",
    "accuracy.integer.mean": "accuracy",
    "accuracy.integer.low": "accuracy_low",
    "accuracy.integer.high": "accuracy_high",
    "accuracy.exact": "baseline_accuracy",
    "accuracy.difference.mean": "integer_minus_simulator",
    "chosen.test.accuracy.mean": "accuracy",
    "chosen.test.accuracy.low": "accuracy_low",
    "chosen.test.accuracy.high": "accuracy_high",
    "chosen.test.baseline_accuracy": "baseline_accuracy",
    "chosen.and_gates": "and_gates",
    "chosen.bytes": "bytes",
    "chosen.seconds": "seconds_per_image",
    "uniform.test.accuracy.mean": "uniform_accuracy",
    "uniform.and_gates": "uniform_and_gates",
    "confirmed": "confirmed",
    "fault.kind": "fault",
    "fault.mode": "mode",
    "mode": "mode",
    "fault.k": "k",
    "fault.rate": "rate",
    "k": "k",
    "prime": "prime",
    "frac_bits": "frac_bits",
    "weight_frac_bits": "weight_frac_bits",
    "integer_error": "integer_error",
    "cost.relus": "relus",
    "cost.and_gates": "and_gates",
    "cost.table_bytes": "table_bytes",
    "values": "values",
    "mismatches": "mismatches",
    "every.accuracy": "accuracy",
    "every.compared": "sign_tests",
    "images": "images",
    "round_trips": "round_trips",
    "seconds.offline": "offline_seconds",
    "seconds.online": "online_seconds",
    "bytes.offline.sent": "offline_bytes_sent",
    "bytes.offline.received": "offline_bytes_received",
    "bytes.online.sent": "online_bytes_sent",
    "bytes.online.received": "online_bytes_received",
    "peak_mib": "peak_mib",
}

#: What the table of results is called in Weights & Biases.
TABLE = "results"

#: Lists in a record, of which every entry is a step, and what is told of it.
STEPS: dict[str, tuple[str, ...]] = {
    "sites": ("site", "relus", "values"),
    "allocation": ("site", "relus", "k", "and_gates", "expected_faults"),
    "rows": ("name", "against", "value", "low", "high"),
}


def wandb_settings(section: TrackerConfig) -> WandbSettings | None:
    """Settings of the wandb mirror, or None for JSON lines alone."""
    if section.name not in ("jsonl", "wandb"):
        raise ValueError(f"tracker.name = {section.name!r} is not one of jsonl, wandb")
    if section.name == "jsonl":
        return None
    return WandbSettings(
        section.mode, section.project, section.entity, section.group, None, tuple(section.tags)
    )


def of_job(
    settings: WandbSettings, kind: str, folder: str, config: Mapping[str, Any], sweep: str | None
) -> WandbSettings:
    """The settings with what a job says of itself: its kind, its sweep as the group unless one was given,
    and a name with k and seed.
    """
    return replace(
        settings, job_type=kind, group=settings.group or sweep, name=run_name(folder, config)
    )


def run_name(folder: str, config: Mapping[str, Any]) -> str:
    """The run folder's name, with k (unless it says it already) and the seed.

    >>> run_name("poszero-k12-0123456789", {"fault": {"k": 12, "seed": 3}})
    'poszero-k12-0123456789-seed3'
    """
    values = flatten(config)
    k, seed = values.get("fault.k"), values.get("seed", values.get("fault.seed"))
    parts = [folder]
    if k is not None and f"k{k}" not in folder.split("-"):
        parts.append(f"k{k}")
    if seed is not None:
        parts.append(f"seed{seed}")
    return "-".join(parts)


def plot_settings(section: TrackerConfig, formats: Sequence[str]) -> WandbSettings | None:
    """Settings of the run that shows what ``scripts/plot.py`` has drawn, looked at before anything is drawn;
    None for none, also if WANDB_MODE says ``disabled``.

    Raises:
        ValueError: if figures are drawn in ``formats`` that wandb cannot show.
        ImportError: if wandb is not installed.
    """
    settings = wandb_settings(section)
    if settings is None:
        return None
    if "png" not in formats:
        raise ValueError(f"formats = {formats}: figures are shown in wandb as PNG; add png")
    mode = wandb_mode(settings.mode)
    if mode == "disabled":
        return None
    import_wandb()
    return replace(settings, mode=mode, job_type="plot")


def show_plots(
    settings: WandbSettings,
    folder: Path,
    rows: Sequence[Row],
    files: Iterable[Path],
    config: Mapping[str, Any],
) -> None:
    """Show the table of results, under ``results``, and the figures, under ``figures/NAME``, in a run of
    their own.

    Args:
        settings: of :func:`plot_settings`.
        folder: where the run's files go, and the id under which the next plot goes on with it.
        rows: the table that ``results.csv`` holds.
        files: the figures, as PNG.
        config: what was asked, as plain data.
    """
    tracker = WandbTracker(folder, settings, config)
    names = columns(rows)
    tracker.table(TABLE, names, [[row.get(name) for name in names] for row in rows])
    for file in files:
        tracker.figure(file)
    tracker.finish()


def tell(tracker: Tracker, record: Mapping[str, Any]) -> None:
    """Everything that a record says in numbers."""
    step = -1
    for step, row in enumerate(steps(record)):
        tracker.log(row, step)
    whole = summary(record)
    tracker.log(whole, step + 1)
    tracker.summary(whole)


def summary(record: Mapping[str, Any]) -> dict[str, Any]:
    """What the whole job came to, by the names of :data:`NUMBERS`; k of an allocation is its range."""
    values = flatten(record)
    told = {name: values[path] for path, name in NUMBERS.items() if _plain(values.get(path))}
    sites = (record.get("fault") or {}).get("sites") or {}
    ks = [spec["k"] for spec in sites.values() if isinstance(spec.get("k"), int)]
    ks += [row["k"] for row in record.get("allocation") or []]
    return told | ({"k_least": min(ks), "k_most": max(ks)} if ks else {})


def steps(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for every fault draw, then for every entry of the lists in :data:`STEPS`."""
    accuracy = record.get("accuracy") or {}
    for draw, value in enumerate((accuracy.get("integer") or accuracy).get("draws") or []):
        yield {"draw": draw, "draw_accuracy": value}
    for name, keys in STEPS.items():
        for entry in record.get(name) or []:
            row = {key: entry.get(key) for key in keys}
            for kind in ("expected", "observed"):
                if kind in entry:
                    row[f"{kind}_faults"] = _faults(entry[kind])
            yield {key: value for key, value in row.items() if _plain(value)}


def _faults(counts: Mapping[str, float]) -> float:
    """All kinds of faults together."""
    return sum(count for kind, count in counts.items() if kind != "values")


def _plain(value: Any) -> bool:
    return isinstance(value, (bool, int, float, str))
