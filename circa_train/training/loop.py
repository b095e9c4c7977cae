"""The one training loop: plain and stochastic networks, one process or many, from the start or resumed.

A step is a function of the weights and of (seed, epoch, step): the batch and its augmentation, the dropout,
the fault level of a curriculum, and the masks, whose draw is the step and whose first image is the place in
the batch of all processes and micro-batches joined. So a resumed run continues bit for bit on the CPU, and
two processes, or two micro-batches, draw the masks that one process draws on the whole batch.

Files: ``last.pt`` after every epoch and when interrupted; ``best.pt`` whenever the validation accuracy has
risen. A kill at any moment costs at most the epoch at hand; Ctrl-C and SIGTERM cost nothing. ``last.pt`` says
which best weights and which metrics belong to it: the best weights wait under ``best.next.pt`` until it is
written, so that the two never speak of different epochs.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from circa_train.bars import bar
from circa_train.checkpoint import CheckpointError, load_checkpoint, load_state_into, save_checkpoint
from circa_train.data import Augmentation, Batches, DataSplits
from circa_train.files import file_digest
from circa_train.nn import described_frac_bits, draw_state, load_draw_state, set_draw, stochastic_relus
from circa_train.runs import Tracker
from circa_train.training.distributed import Ranks, join_ranks
from circa_train.training.interruption import Interruption
from circa_train.training.objective import training_mode
from circa_train.training.optimization import learning_rate
from circa_train.training.progress import OtherTraining, Progress, check_identity, identity
from circa_train.training.settings import TrainingSettings
from circa_train.training.step import Stepper
from circa_train.training.validation import Validation, validate

logger = logging.getLogger(__name__)

LAST, BEST, NEXT_BEST = "last.pt", "best.pt", "best.next.pt"

#: On a GPU, reading the loss waits for all work in flight; once in so many steps costs nothing that can be
#: measured.
_STEPS_BETWEEN_READINGS = 50


@dataclass(frozen=True)
class TrainingResult:
    """What a training came to.

    Attributes:
        best_accuracy: on the validation split, in [0, 1].
        best_epoch: after how many epochs.
        epochs: epochs completed.
        last_checkpoint, best_checkpoint: paths.
        seconds: spent training and validating, earlier sittings included.
    """

    best_accuracy: float
    best_epoch: int
    epochs: int
    last_checkpoint: Path
    best_checkpoint: Path
    seconds: float


def train(
    model: nn.Module,
    splits: DataSplits,
    settings: TrainingSettings,
    *,
    folder: str | os.PathLike[str],
    tracker: Tracker | None = None,
    resume: bool = True,
    teacher: nn.Module | None = None,
    metadata: Mapping[str, Any] | None = None,
    progress: bool | None = None,
    inputs: Mapping[str, str] | None = None,
) -> TrainingResult:
    """Train ``model`` in place, on its device; it ends with its last weights (not averaged), the best are in
    ``best.pt``.

    Args:
        model: a plain or a converted network.
        splits: train and validation are used; the test set is not looked at.
        settings: see :class:`TrainingSettings`.
        folder: where ``last.pt`` and ``best.pt`` go.
        tracker: gets the metrics of every epoch, at the number of optimiser steps done.
        resume: continue from ``folder/last.pt`` if there is one; False starts over and replaces it.
        teacher: an exact-ReLU network to distil from, if ``settings.distillation_weight`` is positive. A copy
            is used.
        metadata: for the checkpoints; ``model`` (the arguments of build_model) makes them loadable by
            load_network.
        progress: bars on a terminal, and elsewhere a line now and then; False shows neither. A line for
            every epoch is logged anyway.
        inputs: digests of what else determines the result, by name, such as the file that the first weights
            are from: a state of other inputs is not resumed.

    Raises:
        CheckpointError: if ``last.pt`` is damaged or was written with other settings, inputs or data
            (:class:`OtherTraining`), or if its ``best.pt`` is not there.
        FloatingPointError: if the loss is NaN or infinite, naming the step; nothing is written then.
        KeyboardInterrupt, SystemExit: on Ctrl-C and (143) on SIGTERM, after ``last.pt`` has been written.
        ValueError: for settings that do not fit the network, the data or the number of processes.
    """
    device = next(model.parameters()).device
    devices = [device] if device.type == "cuda" else []
    # Dropout draws from torch's generator, which every step seeds: the caller's own state comes back at the
    # end.
    with join_ranks(device.type) as ranks, torch.random.fork_rng(devices=devices):
        run = _Run(
            model,
            splits,
            settings,
            Path(folder),
            tracker or Tracker(),
            teacher,
            metadata or {},
            ranks,
            device,
            inputs or {},
        )
        state = run.restore() if resume and run.last.exists() else {}
        run.tracker.rewind(run.progress.step if run.progress.step else -1)
        if state.get("metrics_and_seconds") is not None:
            run.tracker.restore(state["metrics_and_seconds"])
        with Interruption() as interruption:
            run.fit(interruption, progress)
        return run.result()


class _Run:
    """A training under way: its position, and what happens between the steps."""

    def __init__(
        self,
        model: nn.Module,
        splits: DataSplits,
        settings: TrainingSettings,
        folder: Path,
        tracker: Tracker,
        teacher: nn.Module | None,
        metadata: Mapping[str, Any],
        ranks: Ranks,
        device: torch.device,
        inputs: Mapping[str, str],
    ) -> None:
        check_fit(settings, splits, model, teacher, ranks)
        self.model, self.splits, self.settings = model, splits, settings
        self.tracker, self.metadata = tracker, metadata
        self.ranks, self.device = ranks, device
        self.last, self.best, self.next_best = folder / LAST, folder / BEST, folder / NEXT_BEST
        self.progress = Progress()
        self.best_digest: str | None = None
        self.identity = identity(model, splits, settings, teacher, inputs)
        self.steps_per_epoch = len(self._batches(0))
        self.stepper = Stepper(
            model, settings, teacher=teacher, ranks=ranks, device=device, steps_per_epoch=self.steps_per_epoch
        )

    def _batches(self, epoch: int) -> Batches:
        settings = self.settings
        return Batches(
            self.splits.train,
            settings.batch_size,
            mean=self.splits.mean,
            std=self.splits.std,
            shuffle=True,
            augment=Augmentation(settings.augment_crop, settings.augment_flip, settings.augment_cutout),
            seed=settings.seed,
            epoch=epoch,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
            drop_last=True,
        )

    def fit(self, interruption: Interruption, bars: bool | None) -> None:
        """All epochs that are left."""

        def stop() -> bool:
            return self.ranks.any(interruption.requested, self.device)

        while self.progress.epoch < self.settings.epochs:
            validation = self._validate(stop) if self._train_epoch(stop, bars) else None
            if validation is not None:
                self._end_epoch(validation)
            else:
                self.save_last()
            if validation is None or stop():
                interruption.leave(
                    f"stopped after step {self.progress.step}; train again to go on from {self.last}"
                )
        if self.ranks.is_main:
            self.tracker.summary(
                {
                    "best_validation_accuracy": self.progress.best_accuracy,
                    "best_epoch": self.progress.best_epoch,
                }
            )
            for left in (self.next_best, self.next_best.with_suffix(".json")):
                left.unlink(missing_ok=True)  # of an epoch that was cut off
            for path in (self.best, self.last):
                self.tracker.checkpoint(path)

    def _train_epoch(self, stop: Callable[[], bool], bars: bool | None) -> bool:
        """The rest of the epoch at hand; False if it was stopped after a batch."""
        progress = self.progress
        training_mode(self.model, self.settings)
        batches = self._batches(progress.epoch)
        started = time.perf_counter()
        epoch = f"epoch {progress.epoch + 1}/{self.settings.epochs}"
        shown = bars if self.ranks.is_main else False
        with bar(len(batches), epoch, "batches", shown=shown, initial=progress.batch) as seen:
            try:
                for images, labels, place in islice(batches, progress.batch, None):
                    first = place - progress.batch * self.settings.batch_size
                    loss = self.stepper.take(images, labels, first, epoch=progress.epoch, step=progress.step)
                    progress.batch += 1
                    progress.step += 1
                    if self.device.type == "cpu" or progress.batch % _STEPS_BETWEEN_READINGS == 0:
                        self._check_finite()
                        seen.set_postfix(loss=f"{float(loss):.3f}", refresh=False)
                    seen.update()
                    if stop():
                        return False
                self._check_finite()
            finally:
                spent = time.perf_counter() - started
                progress.epoch_seconds += spent
                progress.seconds += spent
        return True

    def _check_finite(self) -> None:
        self.stepper.check_finite(
            f"{self.last} holds an earlier state" if self.last.exists() else "nothing was written"
        )

    def _validate(self, stop: Callable[[], bool]) -> Validation | None:
        started = time.perf_counter()
        self.stepper.set_level(1.0)
        for network in {self.model, self.stepper.evaluated}:
            self.ranks.average_buffers(network)
        validation = validate(
            self.stepper.evaluated,
            self.splits,
            self.settings,
            batch_size=self.settings.batch_size // self.settings.accumulate,
            ranks=self.ranks,
            device=self.device,
            stop=stop,
        )
        self.progress.seconds += time.perf_counter() - started
        return validation

    def _end_epoch(self, validation: Validation) -> None:
        progress = self.progress
        self.stepper.get_sums(progress)
        metrics: dict[str, Any] = {
            "epoch": progress.epoch + 1,
            "train_loss": progress.loss / progress.images,
            "train_accuracy": progress.right / progress.images,
            "validation_loss": validation.loss if math.isfinite(validation.loss) else None,
            "validation_accuracy": validation.accuracy,
            "learning_rate": learning_rate(self.settings, progress.step - 1, self.steps_per_epoch),
        }
        rates = {f"fault_rate/{site}": rate for site, rate in validation.fault_rates.items()}
        timing = {
            "seconds": progress.epoch_seconds,
            "images_per_second": progress.images / progress.epoch_seconds,
        }
        improved = validation.accuracy > progress.best_accuracy
        if improved:
            progress.best_accuracy, progress.best_epoch = validation.accuracy, progress.epoch + 1
        progress.next_epoch()
        self.stepper.put_sums(progress)
        if self.ranks.is_main:
            self.tracker.log(metrics | timing | rates, step=progress.step)
            logger.info(
                "epoch %d/%d: training loss %.4f, accuracy %.2f%%; validation accuracy %.2f%%%s; %.1f s, "
                "%.0f images/s",
                metrics["epoch"], self.settings.epochs, metrics["train_loss"],
                100 * metrics["train_accuracy"], 100 * validation.accuracy, " (best)" if improved else "",
                timing["seconds"], timing["images_per_second"],
            )  # fmt: skip
            if improved:
                save_checkpoint(self.next_best, self.stepper.evaluated, self._described(metrics))
                self.best_digest = file_digest(self.next_best)
        self.save_last(metrics)
        if self.ranks.is_main and improved:
            self._place_best()

    def save_last(self, metrics: Mapping[str, Any] | None = None) -> None:
        """Write ``last.pt``; every process calls it, rank 0 writes."""
        self._check_finite()
        self.stepper.get_sums(self.progress)
        if self.ranks.is_main:
            set_draw(self.model, self.progress.step)
            state = {
                "progress": asdict(self.progress),
                "optimizer": self.stepper.optimizer.state_dict(),
                "model": None if self.stepper.average is None else self.model.state_dict(),
                "draws": draw_state(self.model),
                "identity": self.identity,
                "best": self.best_digest,
                # called so because it holds times: runs that are equal differ in it, as in all "seconds"
                "metrics_and_seconds": self.tracker.record(),
            }
            save_checkpoint(self.last, self.stepper.evaluated, self._described(metrics or {}), state)
        self.ranks.barrier()

    def restore(self) -> dict[str, Any]:
        """Take up ``last.pt``, and return its training state. Inverse of :meth:`save_last`."""
        checkpoint = load_checkpoint(self.last)
        state = checkpoint.training_state
        if state is None:
            raise CheckpointError(
                f"{self.last} has weights but no training state; start over with resume=False"
            )
        check_identity(state["identity"], self.identity, self.last)
        progress = Progress(**state["progress"])
        self.best_digest = state.get("best")
        self._find_best()
        weights = checkpoint.state_dict if self.stepper.average is None else state["model"]
        load_state_into(self.model, weights, source=str(self.last))
        load_state_into(self.stepper.evaluated, checkpoint.state_dict, source=str(self.last))
        self.stepper.optimizer.load_state_dict(state["optimizer"])
        load_draw_state(self.model, state["draws"])
        self.progress = progress
        self.stepper.put_sums(self.progress)
        return dict(state)

    def _find_best(self) -> None:
        """Make sure that ``best.pt`` is the one that ``last.pt`` speaks of; a kill may have left it under its
        first name.
        """

        def holds_it(path: Path) -> bool:
            return path.is_file() and file_digest(path) == self.best_digest

        if self.best_digest is None or holds_it(self.best):
            return
        if self.ranks.is_main and holds_it(self.next_best):
            self._place_best()
        self.ranks.barrier()
        if holds_it(self.best):
            return
        raise OtherTraining(
            f"{self.best} is not the one that belongs to {self.last}; start over with resume=False"
        )

    def _place_best(self) -> None:
        """``best.next.pt`` becomes ``best.pt``, and its description with it."""
        self.next_best.replace(self.best)
        described = self.next_best.with_suffix(".json")
        if described.is_file():
            described.replace(self.best.with_suffix(".json"))

    def _described(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """The metadata of a checkpoint; what the caller says about the network, the data or the faults has
        precedence.
        """
        specs = self.stepper.specs
        faulty = any(not spec.is_exact for spec in specs.values())
        sites = {name: spec.to_dict() for name, spec in specs.items()}
        relus = list(stochastic_relus(self.model).values())
        return {
            "data": {
                "name": self.splits.name,
                "mean": list(self.splits.mean),
                "std": list(self.splits.std),
                "class_names": list(self.splits.class_names),
            },
            "fault": None
            if not faulty
            else relus[0].spec.to_dict()
            if len(set(specs.values())) == 1
            else {"sites": sites},
            "frac_bits": described_frac_bits(self.model) if faulty else None,
            **self.metadata,
            "metrics": dict(metrics),
        }

    def result(self) -> TrainingResult:
        progress = self.progress
        return TrainingResult(
            progress.best_accuracy,
            progress.best_epoch,
            progress.epoch,
            self.last,
            self.best,
            progress.seconds,
        )


def check_fit(
    settings: TrainingSettings, splits: DataSplits, model: nn.Module, teacher: nn.Module | None, ranks: Ranks
) -> None:
    """ValueError where settings, networks, data and processes do not go together."""
    parts = settings.accumulate * ranks.world_size
    if settings.batch_size % parts:
        raise ValueError(
            f"batch_size = {settings.batch_size} does not divide into {ranks.world_size} processes with "
            f"accumulate = {settings.accumulate} micro-batches each; make it a multiple of {parts}"
        )
    if len(splits.train) < settings.batch_size:
        raise ValueError(
            f"batch_size = {settings.batch_size} is more than the {len(splits.train)} training images; lower "
            "it"
        )
    if len(splits.validation) < ranks.world_size:
        raise ValueError(
            f"{len(splits.validation)} validation images do not go round {ranks.world_size} processes"
        )
    if settings.curriculum != "none" and not stochastic_relus(model):
        raise ValueError(
            f"curriculum = {settings.curriculum!r} needs a network with stochastic ReLUs "
            "(with_stochastic_relus)"
        )
    if (teacher is not None) != (settings.distillation_weight > 0):
        given = "a teacher is given" if teacher is not None else "no teacher is given"
        raise ValueError(
            f"distillation_weight = {settings.distillation_weight}, but {given}; give both or neither"
        )
    if teacher is not None and any(
        relu.faults_enabled and not relu.spec.is_exact
        for relu in stochastic_relus(teacher).values()
    ):
        raise ValueError("the teacher has stochastic ReLUs; distil from the exact network (with_exact_relus)")
