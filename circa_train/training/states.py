"""What a training leaves on the disk: ``last.pt`` to go on from, ``best.pt`` to use.

``last.pt`` is written after every epoch, or every few, and when interrupted; ``best.pt`` whenever the
validation accuracy has risen. A kill at any moment costs at most what came after ``last.pt``; Ctrl-C and
SIGTERM cost nothing. ``last.pt`` says which best weights and which metrics belong to it: the best weights
wait under ``best.next.pt`` until it is written, so that the two never speak of different epochs. Where
training chooses which ReLUs stay, the masks are written as ``masks.safetensors`` before each ``last.pt``,
once they are chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from circa_train.checkpoint import CheckpointError, load_checkpoint, load_state_into, save_checkpoint
from circa_train.data import DataSplits
from circa_train.files import file_digest
from circa_train.nn import described_frac_bits, draw_state, load_draw_state, set_draw, stochastic_relus
from circa_train.nn.models.mask_files import save_masks
from circa_train.runs import Tracker
from circa_train.training.distributed import Ranks
from circa_train.training.progress import OtherTraining, Progress, check_identity
from circa_train.training.step import Stepper

LAST, BEST, NEXT_BEST = "last.pt", "best.pt", "best.next.pt"
MASKS = "masks.safetensors"


class States:
    """The checkpoints in a training's folder.

    Args:
        folder: where they are.
        stepper: the network with its optimiser and moving average.
        tracker: says which metrics belong to a state.
        ranks: every process calls every method, rank 0 writes.
        identity: which training this is; a state of another one is not taken up.
        splits: described in the checkpoints.
        metadata: what the caller says about network, data and faults; it has precedence.
    """

    def __init__(
        self,
        folder: Path,
        stepper: Stepper,
        *,
        tracker: Tracker,
        ranks: Ranks,
        identity: Mapping[str, Any],
        splits: DataSplits,
        metadata: Mapping[str, Any],
    ) -> None:
        self.last, self.best, self.next_best = folder / LAST, folder / BEST, folder / NEXT_BEST
        self.masks = folder / MASKS
        self.stepper, self.tracker, self.ranks = stepper, tracker, ranks
        self.identity, self.splits, self.metadata = identity, splits, metadata
        self.best_digest: str | None = None
        self._best_waits = False

    def check_finite(self) -> None:
        """FloatingPointError if the loss was not finite, saying what there is to go on from."""
        self.stepper.check_finite(
            f"{self.last} holds an earlier state" if self.last.exists() else "nothing was written"
        )

    def keep_best(self, metrics: Mapping[str, Any]) -> None:
        """Write the best weights so far; they get their name once a ``last.pt`` speaks of them."""
        if self.ranks.is_main:
            save_checkpoint(self.next_best, self.stepper.evaluated, self._described(metrics))
            self.best_digest = file_digest(self.next_best)
            self._best_waits = True

    def save_last(self, progress: Progress, metrics: Mapping[str, Any] | None = None) -> None:
        """Write ``last.pt``, and name the best weights that waited for it. Inverse of :meth:`restore`."""
        self.check_finite()
        stepper = self.stepper
        stepper.get_sums(progress)
        if self.ranks.is_main:
            set_draw(stepper.model, progress.step)
            state = {
                "progress": asdict(progress),
                "optimizer": stepper.optimizer.state_dict(),
                "model": None if stepper.average is None else stepper.model.state_dict(),
                "draws": draw_state(stepper.model),
                "identity": self.identity,
                "best": self.best_digest,
                # called so because it holds times: runs that are equal differ in it, as in all "seconds"
                "metrics_and_seconds": self.tracker.record(),
            }
            if (linearisation := stepper.linearisation) is not None:
                state["linearisation"] = linearisation.state()
                if linearisation.chosen:
                    save_masks(self.masks, linearisation.full_masks(), linearisation.about())
            save_checkpoint(self.last, stepper.evaluated, self._described(metrics or {}), state)
            if self._best_waits:
                self._place_best()
        self.ranks.barrier()

    def restore(self) -> tuple[Progress, dict[str, Any]]:
        """Take up ``last.pt``; where it stands, and its whole training state."""
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
        stepper = self.stepper
        weights = checkpoint.state_dict if stepper.average is None else state["model"]
        load_state_into(stepper.model, weights, source=str(self.last))
        load_state_into(stepper.evaluated, checkpoint.state_dict, source=str(self.last))
        stepper.optimizer.load_state_dict(state["optimizer"])
        if stepper.linearisation is not None:
            stepper.linearisation.load_state(state["linearisation"])
        load_draw_state(stepper.model, state["draws"])
        stepper.put_sums(progress)
        return progress, dict(state)

    def finish(self) -> None:
        """The training is over: forget the best weights of an epoch that was cut off, and tell the
        tracker.
        """
        for left in (self.next_best, self.next_best.with_suffix(".json")):
            left.unlink(missing_ok=True)
        for path in (self.best, self.last):
            self.tracker.checkpoint(path)

    def _place_best(self) -> None:
        """``best.next.pt`` becomes ``best.pt``, and its description with it; done by rank 0."""
        self.next_best.replace(self.best)
        described = self.next_best.with_suffix(".json")
        if described.is_file():
            described.replace(self.best.with_suffix(".json"))
        self._best_waits = False

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

    def _reduced(self) -> dict[str, Any]:
        """What the network is that training has made of the one in the metadata."""
        linearisation, model = self.stepper.linearisation, self.metadata.get("model")
        if linearisation is None or model is None:
            return {}
        return {"model": linearisation.described(model)}

    def _described(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """The metadata of a checkpoint."""
        specs = self.stepper.specs
        faulty = any(not spec.is_exact for spec in specs.values())
        sites = {name: spec.to_dict() for name, spec in specs.items()}
        relus = list(stochastic_relus(self.stepper.model).values())
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
            "frac_bits": described_frac_bits(self.stepper.model) if faulty else None,
            **self.metadata,
            **self._reduced(),
            "metrics": dict(metrics),
        }
