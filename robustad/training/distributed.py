"""Several processes on one run, as `torchrun` starts them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from robustad.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """One process among those of the run.

    Attributes
    ----------
    rank : int
        Its number; 0 writes files and shows progress.
    count : int
        How many there are.
    device : torch.device
        Where this one computes.
    """

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def share(self, items: list[T]) -> list[T]:
        """The part of the items that is for this process; lengths differ by at most one."""
        return items[self.rank :: self.count]

    def mean(self, value: Tensor) -> Tensor:
        """Average a tensor over all processes."""
        if self.count == 1:
            return value
        total = value.clone()
        dist.all_reduce(total)
        return total / self.count

    def gathered(self, value: Tensor) -> list[Tensor]:
        """Tensors of one shape from all processes, in the order of their numbers."""
        if self.count == 1:
            return [value]
        value = value.contiguous()
        found = [torch.empty_like(value) for _ in range(self.count)]
        dist.all_gather(found, value)
        return found

    def agreed(self, value: T) -> T:
        """What the first process has: on GPUs, rounding may lead others to something else."""
        if self.count == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, device=self.device)
        return box[0]

    def wait(self) -> None:
        """Wait for all others."""
        if self.count > 1:
            dist.barrier()


@contextmanager
def processes(device: str) -> Iterator[Processes]:
    """Join the other processes where `torchrun` started several, else be alone.

    Parameters
    ----------
    device : str
        `cpu` or `cuda`; with several processes, `cuda` is each one's own GPU.

    Yields
    ------
    Processes
        NCCL connects GPUs, Gloo CPUs. The group is dissolved at the end.

    Raises
    ------
    InputError
        If the device does not exist.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device: expected cpu, cuda or cuda:0, got {device!r}") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device: expected one that is there, got {device!r}; there is no GPU")
    if count == 1:
        yield Processes(0, 1, chosen)
        return
    if chosen.type == "cuda":
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(chosen)
    joined = not dist.is_initialized()
    if joined:
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), chosen)
    finally:
        if joined:
            dist.destroy_process_group()
