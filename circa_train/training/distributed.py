"""Several processes on one training: who is who under torchrun, and what they agree on."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Ranks:
    """This process among all.

    Attributes:
        rank: number of this process; rank 0 writes files.
        world_size: number of processes.
        local_rank: number of this process on its machine, hence of its GPU.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def device(self, kind: str) -> torch.device:
        """This process's device of a kind: its own GPU for ``cuda``, for ``auto`` that or the CPU."""
        if kind == "auto":
            kind = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.device(kind, self.local_rank) if kind == "cuda" else torch.device(kind)

    def sum(self, values: Tensor) -> Tensor:
        """The element-wise sum over all processes, in place."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether any process says yes; all get the same answer."""
        return (
            bool(self.sum(torch.tensor([flag], dtype=torch.int32, device=device)).item())
            if self.world_size > 1
            else flag
        )

    def barrier(self) -> None:
        if self.world_size > 1:
            dist.barrier()

    def average_buffers(self, model: nn.Module) -> None:
        """Give every process the mean of the floating-point buffers: each has seen its own part of the
        batches.
        """
        if self.world_size > 1:
            for buffer in model.buffers():
                if buffer.is_floating_point():
                    buffer.copy_(self.sum(buffer.clone()) / self.world_size)


@contextlib.contextmanager
def join_ranks(device: str = "auto") -> Iterator[Ranks]:
    """Take this process's place among those that torchrun started, nccl between GPUs and gloo between CPUs.

    Alone where torchrun did not start it; an existing process group is used and left as it is. Scripts open
    this first, so that only rank 0 writes and each process takes its own GPU.
    """
    environment = {name: int(os.environ.get(name.upper(), default))
                   for name, default in (("rank", "0"), ("world_size", "1"), ("local_rank", "0"))}
    if dist.is_available() and dist.is_initialized():
        yield Ranks(dist.get_rank(), dist.get_world_size(), environment["local_rank"])
        return
    ranks = Ranks(**environment)
    if ranks.world_size == 1:
        yield Ranks()
        return
    own = ranks.device(device)
    if own.type == "cuda":
        torch.cuda.set_device(own)
    dist.init_process_group("nccl" if own.type == "cuda" else "gloo")
    try:
        yield ranks
    finally:
        dist.destroy_process_group()
