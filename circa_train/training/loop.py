"""The one training loop: plain and stochastic networks, one process or many, from the start or resumed.

A step is a function of the weights and of (seed, epoch, step): the batch and its augmentation, the dropout,
the fault level of a curriculum, and the masks, whose draw is the step and whose first image is the place in
the batch of all processes and micro-batches joined. So a resumed run continues bit for bit on the CPU, and
two processes, or two micro-batches, draw the masks that one process draws on the whole batch.

What it leaves on the disk, and when, is told by :mod:`circa_train.training.states`.
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
from circa_train.data import Augmentation, Batches, DataSplits
from circa_train.nn.models.relaxed_relus import harden_relus
from circa_train.runs import Tracker
from circa_train.training.distributed import Ranks, join_ranks
from circa_train.training.fitting import check_fit, check_save_every
from circa_train.training.interruption import Interruption
from circa_train.training.linearisation import Linearisation
from circa_train.training.objective import training_mode
from circa_train.training.progress import Progress, identity
from circa_train.training.reduction_settings import ReductionSettings
from circa_train.training.settings import TrainingSettings
from circa_train.training.states import States
from circa_train.training.step import Stepper
from circa_train.training.validation import Validation, validate

logger = logging.getLogger(__name__)

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
        relus: that a learned reduction has kept, per image; None without one.
        masks: its file of masks.
    """

    best_accuracy: float
    best_epoch: int
    epochs: int
    last_checkpoint: Path
    best_checkpoint: Path
    seconds: float
    relus: int | None = None
    masks: Path | None = None


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
    reduction: ReductionSettings | None = None,
    prices: Mapping[str, int] | None = None,
    save_every: int = 1,
) -> TrainingResult:
    """Train ``model`` in place, on its device; it ends with its last weights (not averaged), the best are in
    ``best.pt``. With a ``reduction`` it ends with fewer ReLUs, too; with all of them if it is cut off.

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
        reduction: learn which ReLUs stay, and fine-tune the network that has only these, see
            :mod:`circa_train.training.linearisation`; None keeps all.
        prices: of one ReLU by site, in the units of the reduction's budget; None counts ReLUs.
        save_every: epochs between two states in ``last.pt``: as many are lost at most if the process is
            killed. Where an epoch takes a second, writing its state can take as long. The result is the same.

    Raises:
        BudgetNotMet: if the reduction's budget was not met while there was an epoch left.
        CheckpointError: if ``last.pt`` is damaged or was written with other settings, inputs or data
            (:class:`OtherTraining`), or if its ``best.pt`` is not there.
        FloatingPointError: if the loss is NaN or infinite, naming the step; nothing is written then.
        KeyboardInterrupt, SystemExit: on Ctrl-C and (143) on SIGTERM, after ``last.pt`` has been written.
        ValueError: for settings that do not fit the network, the data or the number of processes.
    """
    check_save_every(save_every)
    device = next(model.parameters()).device
    devices = [device] if device.type == "cuda" else []
    # Dropout draws from torch's generator, which every step seeds: the caller's own state comes back at the
    # end.
    with join_ranks(device.type) as ranks, torch.random.fork_rng(devices=devices):
        try:
            run = _Run(
                model, splits, settings, Path(folder), tracker or Tracker(), teacher, metadata or {}, ranks,
                device, inputs or {}, reduction, prices,
            )  # fmt: skip
            run.begin(resume)
            with Interruption() as interruption:
                run.fit(interruption, progress, save_every)
            return run.result()
        finally:
            harden_relus(model)  # where a reduction has not come to its end


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
        reduction: ReductionSettings | None,
        prices: Mapping[str, int] | None,
    ) -> None:
        check_fit(settings, splits, model, teacher, ranks, reduction)
        self.model, self.splits, self.settings = model, splits, settings
        self.tracker, self.ranks, self.device = tracker, ranks, device
        self.progress = Progress()
        chosen_by = None if reduction is None else {**asdict(reduction), "prices": prices and dict(prices)}
        known = identity(model, splits, settings, teacher, inputs, chosen_by)
        self.steps_per_epoch = len(self._batches(0))

        def linearise(network: nn.Module) -> Linearisation:
            assert reduction is not None
            return Linearisation(
                network, reduction, prices, ranks=ranks, steps_per_epoch=self.steps_per_epoch,
                input_shape=(splits.channels, splits.image_size, splits.image_size),
            )  # fmt: skip

        self.stepper = Stepper(
            model, settings, teacher=teacher, ranks=ranks, device=device,
            steps_per_epoch=self.steps_per_epoch, linearise=None if reduction is None else linearise,
        )  # fmt: skip
        self.states = States(
            folder, self.stepper, tracker=tracker, ranks=ranks, identity=known, splits=splits,
            metadata=metadata,
        )  # fmt: skip

    def begin(self, resume: bool) -> None:
        """Take up the state in the folder if there is one; the tracker forgets what came after it."""
        state: dict[str, Any] = {}
        if resume and self.states.last.exists():
            self.progress, state = self.states.restore()
        self.tracker.rewind(self.progress.step if self.progress.step else -1)
        if state.get("metrics_and_seconds") is not None:
            self.tracker.restore(state["metrics_and_seconds"])

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

    def fit(self, interruption: Interruption, bars: bool | None, save_every: int) -> None:
        """All epochs that are left."""

        def stop() -> bool:
            return self.ranks.any(interruption.requested, self.device)

        linearisation = self.stepper.linearisation
        while self.progress.epoch < self.settings.epochs:
            if linearisation is not None:
                linearisation.require_met(self.progress.epoch, self.settings.epochs)
            validation = self._validate(stop) if self._train_epoch(stop, bars) else None
            metrics = None if validation is None else self._end_epoch(validation)
            epoch = self.progress.epoch
            due = epoch % save_every == 0 or epoch == self.settings.epochs
            save = metrics is None or due or stop()
            if save:
                self.states.save_last(self.progress, metrics)
            if metrics is None or (save and stop()):
                interruption.leave(
                    f"stopped after step {self.progress.step}; train again to go on from {self.states.last}"
                )
        if linearisation is not None:
            linearisation.finish(self.model)
        if self.ranks.is_main:
            self.tracker.summary(
                {
                    "best_validation_accuracy": self.progress.best_accuracy,
                    "best_epoch": self.progress.best_epoch,
                }
            )
            self.states.finish()

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
                        self.states.check_finite()
                        seen.set_postfix(loss=f"{float(loss):.3f}", refresh=False)
                    seen.update()
                    if stop():
                        return False
                self.states.check_finite()
            finally:
                spent = time.perf_counter() - started
                progress.epoch_seconds += spent
                progress.seconds += spent
        return True

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

    def _end_epoch(self, validation: Validation) -> dict[str, Any]:
        """Tell the tracker and the log, keep the weights if they are the best; returns what was measured."""
        progress = self.progress
        self.stepper.get_sums(progress)
        metrics: dict[str, Any] = {
            "epoch": progress.epoch + 1,
            "train_loss": progress.loss / progress.images,
            "train_accuracy": progress.right / progress.images,
            "validation_loss": validation.loss if math.isfinite(validation.loss) else None,
            "validation_accuracy": validation.accuracy,
            "learning_rate": self.stepper.learning_rate(progress.step - 1),
        }
        rates = {f"fault_rate/{site}": rate for site, rate in validation.fault_rates.items()}
        timing = {
            "seconds": progress.epoch_seconds,
            "images_per_second": progress.images / progress.epoch_seconds,
        }
        linearisation = self.stepper.linearisation
        if linearisation is not None:
            metrics |= linearisation.metrics()
        # Relaxed ReLUs are not the network that is looked for, however accurate it is with them.
        usable = linearisation is None or linearisation.chosen
        improved = usable and validation.accuracy > progress.best_accuracy
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
            self.states.keep_best(metrics)
        return metrics

    def result(self) -> TrainingResult:
        progress = self.progress
        return TrainingResult(
            progress.best_accuracy,
            progress.best_epoch,
            progress.epoch,
            self.states.last,
            self.states.best,
            progress.seconds,
            None if self.stepper.linearisation is None else self.stepper.linearisation.kept_relus(),
            None if self.stepper.linearisation is None else self.states.masks,
        )
