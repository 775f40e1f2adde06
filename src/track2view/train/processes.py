"""One process or several, as ``torchrun`` starts them: their group, their device, and what they agree on."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed


@dataclass(frozen=True, kw_only=True, slots=True)
class Processes:
    """This process among those that train together.

    Attributes:
        rank, count: its number, and how many there are.
        device: where it computes.
    """

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether it is the one that writes."""
        return self.rank == 0

    def agree(self, value: float, how: "distributed.ReduceOp.RedOpType" = distributed.ReduceOp.SUM) -> float:
        """The sum of all processes' values, or another reduction of them."""
        if self.count == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64, device=self.device)
        distributed.all_reduce(shared, how)
        return float(shared)

    def wait(self) -> None:
        """For all others to come here too."""
        if self.count > 1:
            distributed.barrier()


@contextmanager
def processes(device: str) -> Iterator[Processes]:
    """Join those that ``torchrun`` started with this one, or train alone.

    Args:
        device: "cpu", "cuda" (each process its own GPU) or one GPU by number.
    """
    count, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    own = torch.device(f"cuda:{local}" if device == "cuda" else device)
    if own.type == "cuda":
        torch.cuda.set_device(own)
    if count == 1:
        yield Processes(rank=0, count=1, device=own)
        return
    distributed.init_process_group("nccl" if own.type == "cuda" else "gloo")
    try:
        yield Processes(rank=distributed.get_rank(), count=count, device=own)
    finally:
        distributed.destroy_process_group()
