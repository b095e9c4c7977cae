"""One optimiser step, as a function of the weights and of (seed, epoch, step), and the moving average."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from circa_train.nn import fault_buffer_names, raise_pending, set_draw, set_specs, stochastic_relus
from circa_train.training.curriculum import fault_level
from circa_train.training.distributed import Ranks
from circa_train.training.linearisation import Linearisation
from circa_train.training.objective import logits_of, loss_sum
from circa_train.training.optimization import build_optimizer, learning_rate, set_learning_rate
from circa_train.training.progress import Progress
from circa_train.training.settings import TrainingSettings


class Stepper:
    """A network with its optimiser, moving average and teacher, and the sums over the epoch at hand.

    Args:
        model: trained in place, on its device.
        teacher: copied; None without distillation.
        steps_per_epoch: fixes the learning rate's course.
        linearise: makes the choice of ReLUs for the network, or None to keep all.

    Attributes:
        specs: the network's own fault specs by site, whatever a curriculum has put in their place.
        average: the moving average, or None.
        teacher: the copy, or None.
        linearisation: the choice of ReLUs under way, or None.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: TrainingSettings,
        *,
        teacher: nn.Module | None,
        ranks: Ranks,
        device: torch.device,
        steps_per_epoch: int,
        linearise: Callable[[nn.Module], Linearisation] | None = None,
    ) -> None:
        self.model, self.settings = model, settings
        self.ranks, self.device = ranks, device
        self.steps_per_epoch = steps_per_epoch
        self.specs = {name: relu.spec for name, relu in stochastic_relus(model).items()}
        self._level = 1.0
        # The teacher often shares its parameters with the student that was converted from it: distil from
        # what it was.
        self.teacher = (
            None if teacher is None else copy.deepcopy(teacher).to(device).eval().requires_grad_(False)
        )
        self.linearisation = None if linearise is None else linearise(model)
        if settings.channels_last:
            model.to(memory_format=torch.channels_last)
        self.average = MovingAverage(model, settings.ema_decay) if settings.ema_decay else None
        if self.average is not None and self.linearisation is not None:
            self.linearisation.share_with(self.average.model)
        self.optimizer = build_optimizer(model, settings)
        self._parallel = self._distribute()
        network: Any = model if self._parallel is None else self._parallel
        self._network: Any = torch.compile(network) if settings.compile else network
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._right = torch.zeros((), dtype=torch.int64, device=device)
        self._images = 0
        self._first_bad = torch.full((), -1, dtype=torch.int64, device=device)

    def _distribute(self) -> DistributedDataParallel | None:
        if self.ranks.world_size == 1:
            return None
        # Which images a process works on is its own: a broadcast address would give all of them rank 0's
        # masks.
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(
            self.model, fault_buffer_names(self.model)
        )
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(self.model, device_ids=devices, broadcast_buffers=False)

    def take(self, images: Tensor, labels: Tensor, first: int, *, epoch: int, step: int) -> Tensor:
        """Take step ``step`` on this process's part of the batch, whose first image is number ``first`` of
        the whole batch.

        Returns the mean loss of the part, on the device.
        """
        settings = self.settings
        torch.manual_seed(
            int(
                np.random.SeedSequence([settings.seed, step, self.ranks.rank]).generate_state(1, np.uint64)[0]
            )
        )
        self.set_level(fault_level(settings, epoch, step))
        set_learning_rate(self.optimizer, self.learning_rate(step))
        self.optimizer.zero_grad(set_to_none=True)
        images, labels = images.to(self.device), labels.to(self.device)
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        parts = list(zip(images.chunk(settings.accumulate), labels.chunk(settings.accumulate), strict=True))
        for number, (part, answers) in enumerate(parts, start=1):
            set_draw(self.model, step, first)
            with self._without_exchange() if number < len(parts) else contextlib.nullcontext():
                try:
                    logits = logits_of(self._network, part, settings)
                except ValueError as error:
                    error.add_note(f"in training step {step}, epoch {epoch + 1}")
                    raise
                loss = loss_sum(logits, answers, settings, self._teach(part))
                # DistributedDataParallel averages over processes what is a sum over the images of all of
                # them.
                (loss * (self.ranks.world_size / settings.batch_size)).backward()
            total += loss.detach()
            self._right += (logits.detach().argmax(1) == answers).sum()
            first += len(part)
        if settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip_norm)
        self.optimizer.step()
        if self.linearisation is not None:
            self.linearisation.step(step + 1)
        if self.average is not None:
            self.average.update(step)
        self._loss += total
        self._images += len(images)
        self._first_bad = torch.where((self._first_bad < 0) & ~total.isfinite(), step, self._first_bad)
        return total / len(images)

    def learning_rate(self, step: int) -> float:
        """Of this step. While ReLUs are being chosen the schedule has not begun."""
        start = 0
        if self.linearisation is not None:
            start = step + 1 if self.linearisation.start is None else self.linearisation.start
        return learning_rate(self.settings, step, self.steps_per_epoch, start)

    def _without_exchange(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self._parallel is None else self._parallel.no_sync()

    @torch.no_grad()
    def _teach(self, images: Tensor) -> Tensor | None:
        return None if self.teacher is None else logits_of(self.teacher, images, self.settings)

    def set_level(self, level: float) -> None:
        """Put the fraction ``level`` of the network's own faults in effect, 1 the faults themselves."""
        if level != self._level:
            set_specs(self.model, {name: spec.at_level(level) for name, spec in self.specs.items()})
            self._level = level

    def check_finite(self, kept: str) -> None:
        """FloatingPointError naming the first step whose loss was NaN or infinite; waits for the work in
        flight.

        Before that, what the sites found wrong on a GPU: a value that overflowed, or a NaN that names its
        site.
        """
        raise_pending(self.model)
        if (step := int(self._first_bad)) >= 0:
            raise FloatingPointError(
                f"the loss is not finite at step {step} (epoch {step // self.steps_per_epoch + 1}); {kept}. "
                "Lower learning_rate, lengthen warmup_epochs or set clip_norm"
            )

    @property
    def evaluated(self) -> nn.Module:
        """The network that validation sees and that checkpoints hold: the average if there is one."""
        return self.model if self.average is None else self.average.model

    def put_sums(self, progress: Progress) -> None:
        """Go on from the sums in ``progress``, which are of all processes: rank 0 carries them on."""
        main = self.ranks.is_main
        self._loss.fill_(progress.loss if main else 0.0)
        self._right.fill_(progress.right if main else 0)
        self._images = progress.images if main else 0

    def get_sums(self, progress: Progress) -> None:
        """Write the sums over all processes into ``progress``. Inverse of :meth:`put_sums`."""
        images = torch.tensor(self._images, dtype=torch.float64, device=self.device)
        loss, right, count = self.ranks.sum(torch.stack([self._loss, self._right.double(), images])).tolist()
        progress.loss, progress.right, progress.images = loss, int(right), int(count)


class MovingAverage:
    """A copy of the network whose weights follow the average: w <- d w + (1 - d) w_now after every step.

    d = min(decay, (1 + n) / (10 + n)) at the n-th update (n = 0, 1, ...), so that the first steps do not drag
    the random initialisation along. BatchNorm's statistics are averaged as weights are; integer buffers are
    copied.

    Attributes:
        model: the averaged network.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).eval()
        self.model.requires_grad_(False)
        # Not by state_dict, which lists tied weights twice.
        averages, currents = ([*network.parameters(), *network.buffers()] for network in (self.model, model))
        pairs = list(zip(averages, currents, strict=True))
        self._floating = [(average, current) for average, current in pairs if average.is_floating_point()]
        self._others = [(average, current) for average, current in pairs if not average.is_floating_point()]

    @torch.no_grad()
    def update(self, updates_before: int) -> None:
        """Take in the network's present weights, after ``updates_before`` earlier calls."""
        decay = min(self.decay, (1 + updates_before) / (10 + updates_before))
        # One multi-tensor kernel per call where one exists: a hundred small launches would show in a step's
        # time.
        averages, currents = zip(*self._floating, strict=True)
        torch._foreach_lerp_(averages, currents, 1 - decay)
        for average, current in self._others:
            average.copy_(current)
