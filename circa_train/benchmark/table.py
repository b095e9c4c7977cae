"""The benchmark's table: what is measured, beside what, and what it is to reach."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

from circa_train.benchmark import layers as speed
from circa_train.benchmark.circuits import measure as measure_circuits
from circa_train.benchmark.circuits import measure_transfer
from circa_train.benchmark.pipeline import measure_pipelines
from circa_train.benchmark.sizes import BenchmarkSizes
from circa_train.benchmark.sweep_point import can_sweep, compare_sweep_point
from circa_train.benchmark.timing import Comparison, compare
from circa_train.benchmark.two_party import two_party_figures
from circa_train.gc import relu_cost
from circa_train.gc.circuits import ReluCircuit
from circa_train.kernels import keep_memory
from circa_train.text import aligned


@dataclass(frozen=True)
class BenchmarkRow:
    """One line: a ratio (or a number of bytes) with its quartiles, and the bound it is to keep.

    ``value`` is to be at most ``bound`` if ``below``, else at least; None: it is to be read, and keeps
    nothing. ``detail`` holds the medians that it comes from.
    """

    name: str
    against: str
    value: float
    low: float
    high: float
    bound: float | None
    below: bool
    detail: dict[str, Any]

    @property
    def reached(self) -> bool | None:
        if self.bound is None:
            return None
        return self.value <= self.bound if self.below else self.value >= self.bound

    @property
    def vague(self) -> bool:
        """Do the repetitions differ so much that they do not tell whether the bound is kept? Their quartiles
        lie further apart than a quarter of the value, with the bound between them.
        """
        wide = self.high - self.low > self.value / 4
        return self.bound is not None and wide and self.low <= self.bound <= self.high


def benchmark_rows(sizes: BenchmarkSizes, say: Callable[[str], None]) -> Iterator[BenchmarkRow]:
    """Measure row by row; ``say`` is told what is being measured.

    Layers on the CPU are measured in both states of memory (:mod:`circa_train.kernels.cpu.memory`): as a
    fresh process has it, then as all scripts keep it, in which everything after them is measured too.

    Raises:
        ValueError: if ``sizes.devices`` are not known, or none of them is here.
    """
    devices = measured_devices(sizes)
    for device in devices:
        say(f"layers on {device}")
        yield from _layers(sizes, device)
    if keep_memory() and "cpu" in devices:
        say("layers on cpu, memory kept")
        yield from _layers(sizes, "cpu", ", memory kept")
    for device in devices:
        say(f"networks on {device}")
        yield from _networks(sizes, device)
    if "cpu" in devices:
        yield from _cpu_alone(sizes, say)


def measured_devices(sizes: BenchmarkSizes) -> list[str]:
    """Those of ``sizes.devices`` that are here, "cpu" first; ValueError as :func:`benchmark_rows` says."""
    unknown = sorted(set(sizes.devices) - {"cpu", "cuda"})
    if unknown:
        raise ValueError(f"benchmark.devices: {', '.join(unknown)} is not one of cpu, cuda")
    here = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    devices = [device for device in here if device in sizes.devices]
    if not devices:
        raise ValueError(f"benchmark.devices = {sizes.devices}: there is no such device here, only {here}")
    return devices


def _cpu_alone(sizes: BenchmarkSizes, say: Callable[[str], None]) -> Iterator[BenchmarkRow]:
    """What runs on the CPU whatever the network runs on."""
    if sizes.sweep_pairs == 0:
        say("no sweep in this size of benchmark")
    elif can_sweep():
        say("a sweep")
        name = f"{sizes.evaluation_model}, point of a sweep of {sizes.sweep_points}, images/s, start included"
        found = compare_sweep_point(
            sizes.evaluation_model, images=sizes.sweep_images, points=sizes.sweep_points,
            pairs=sizes.sweep_pairs,
        )  # fmt: skip
        yield _rate_row(name, found, None)
    else:
        say("no sweep: the scripts are not installed (make install)")
    say("the law")
    law = speed.compare_law(sizes.law_elements, pairs=sizes.pairs)
    yield _time_row("fault_probability", "torch.relu on the same int64 tensor", law, 20)
    say("circuits")
    yield from _circuits(sizes)
    say("private inference")
    yield from _two_party(sizes)
    say("input pipeline")
    pipelines = measure_pipelines(images=sizes.pipeline_images, repeats=sizes.pipeline_pairs)
    yield BenchmarkRow(
        "input pipeline, images/s", "torchvision, DataLoader with 2 workers",
        pipelines.ratio, pipelines.low, pipelines.high, 3, False, asdict(pipelines),
    )  # fmt: skip


def profiles(sizes: BenchmarkSizes, count: int = 3) -> dict[str, dict[str, list[tuple[str, float]]]]:
    """The largest costs of one evaluation pass and one training step on the CPU: plain, reference, and
    fused.
    """
    passes: dict[str, Callable[..., tuple[Callable, Callable]]] = {
        f"{sizes.evaluation_model} evaluation": lambda backend: speed.evaluation_passes(
            sizes.evaluation_model, batch_size=sizes.evaluation_batch, backend=backend
        ),
        f"{sizes.training_model} training step": lambda backend: speed.training_steps(
            sizes.training_model, batch_size=sizes.training_batch, backend=backend
        ),
    }
    found = {}
    for name, make in passes.items():
        fused, plain = make("auto")
        runs = {"plain": plain, "reference": make("reference")[0], "fused": fused}
        found[name] = {backend: speed.largest_costs(run, count) for backend, run in runs.items()}
    return found


def benchmark_table(rows: list[BenchmarkRow]) -> str:
    """The rows as aligned text."""
    lines = [["what", "against", "measured", "quartiles", "to reach", ""]]
    for row in rows:
        bound = "" if row.bound is None else f"{'<=' if row.below else '>='} {row.bound:g}"
        spread = f"{row.low:.3g} - {row.high:.3g}"
        verdict = {None: "", True: "reached", False: "MISSED"}[row.reached]
        lines.append(
            [row.name, row.against, f"{row.value:.3g}", spread, bound, verdict + ", vague" * row.vague]
        )
    return aligned(lines)


def _layers(sizes: BenchmarkSizes, device: str, state: str = "") -> Iterator[BenchmarkRow]:
    dtypes = (torch.float32,) if device == "cpu" else (torch.float32, torch.bfloat16)
    forward, both = (1.3, 1.2) if device == "cpu" else (1.15, 1.15)
    for dtype in dtypes:
        found = speed.compare_layers(sizes.shape, pairs=sizes.pairs, dtype=dtype, device=device)
        kind = f"{'x'.join(map(str, sizes.shape))} {str(dtype).removeprefix('torch.')} {device}{state}"
        yield _time_row(f"StochasticReLU forward, {kind}", "nn.ReLU", found["forward"], forward)
        yield _time_row(
            f"StochasticReLU forward and backward, {kind}", "nn.ReLU", found["forward and backward"], both
        )
        yield _time_row(f"StochasticReLU with statistics, {kind}", "without", found["statistics"], 2)


def _networks(sizes: BenchmarkSizes, device: str) -> Iterator[BenchmarkRow]:
    name = f"{sizes.evaluation_model} evaluation, images/s, {device}"
    fused, plain = speed.evaluation_passes(
        sizes.evaluation_model, batch_size=sizes.evaluation_batch, device=device
    )
    found = compare(fused, plain, sizes.network_pairs, device)
    yield _rate_row(name, found, 0.90 if device == "cpu" else 0.95)
    name = f"{sizes.training_model} training step, steps/s, {device}"
    fused, plain = speed.training_steps(sizes.training_model, batch_size=sizes.training_batch, device=device)
    found = compare(fused, plain, sizes.network_pairs, device)
    yield _rate_row(name, found, 0.93 if device == "cpu" else 0.97)
    peaks = {"ours": speed.peak_bytes(fused, device), "theirs": speed.peak_bytes(plain, device)}
    ratio = peaks["ours"] / peaks["theirs"]
    yield BenchmarkRow(
        f"peak memory of that step, {device}", "plain ReLU", ratio, ratio, ratio, 1.02, True, peaks
    )


def _circuits(sizes: BenchmarkSizes) -> Iterator[BenchmarkRow]:
    found = measure_circuits(k=speed.K, instances=sizes.circuit_instances, pairs=sizes.circuit_pairs)
    for what, share in (("garble", 8), ("evaluate", 4)):
        spread = found[f"{what}_ratio"]
        yield BenchmarkRow(
            f"{what} truncated signs, AND gates/s, one core", f"AES blocks/s / {share}",
            spread["median"], spread["low"], spread["high"], 0.65, False, found,
        )  # fmt: skip
    transfer = measure_transfer(pairs=sizes.circuit_pairs)
    spread = transfer["transfer_ns"]
    yield BenchmarkRow(
        "label by oblivious transfer, both parties, ns",
        f"its AES alone: {transfer['ceiling_ns']['median']:.1f} ns",
        spread["median"], spread["low"], spread["high"], 165, True, transfer,
    )  # fmt: skip
    cost = relu_cost(ReluCircuit("truncated", speed.SPEC.prime, speed.K))
    for name, size, bound in (
        ("garbled tables, bytes per AND gate", cost.table_bytes / cost.and_gates, 32),
        (f"complete ReLU at k = {speed.K}, garbled bytes", cost.garbled_bytes, 640),
    ):
        yield BenchmarkRow(name, "", size, size, size, bound, True, asdict(cost))


def _two_party(sizes: BenchmarkSizes) -> Iterator[BenchmarkRow]:
    figures = two_party_figures(
        sizes.two_party_model,
        ks=sizes.two_party_ks,
        repeats=sizes.two_party_repeats,
        everything=sizes.two_party_everything,
    )
    for found in figures:
        spread = found.value
        yield BenchmarkRow(
            found.name, found.against, spread.median, spread.low, spread.high, found.bound, True, found.detail
        )


def _time_row(name: str, against: str, found: Comparison, bound: float) -> BenchmarkRow:
    return BenchmarkRow(name, against, found.ratio, found.low, found.high, bound, True, asdict(found))


def _rate_row(name: str, found: Comparison, bound: float | None) -> BenchmarkRow:
    return BenchmarkRow(
        name, "plain ReLU", 1 / found.ratio, 1 / found.high, 1 / found.low, bound, False, asdict(found)
    )
