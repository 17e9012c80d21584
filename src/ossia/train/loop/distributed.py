"""The processes that torchrun started: their ranks and devices, and reductions over them.

Input: torchrun's environment variables. Output: a `DistributedContext`. Without torchrun it has one process.
"""

import gc
import os
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh


class DistributedContext(NamedTuple):
    """This process's rank and device. `mesh` is None for a single process."""

    rank: int = 0
    world_size: int = 1
    mesh: DeviceMesh | None = None
    device: str = "cpu"

    @staticmethod
    def join(kind: str) -> "DistributedContext":
        """Join the process group if torchrun started this process. kind: "cpu" or "cuda"."""
        size = world_size()
        if size == 1:
            return DistributedContext(device=kind)
        device = kind
        if kind == "cuda":
            local = int(os.environ.get("LOCAL_RANK", "0"))
            if local >= torch.cuda.device_count():
                raise ValueError(
                    f"process {local} has no GPU: torch sees {torch.cuda.device_count()}; start one process per GPU"
                )
            device = f"cuda:{local}"
            torch.cuda.set_device(local)
        mesh = init_device_mesh(kind, (size,))
        return DistributedContext(dist.get_rank(), size, mesh, device)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and messages."""
        return self.rank == 0

    def all_reduce_max(self, value: int) -> int:
        """The maximum over all processes."""
        if self.mesh is None:
            return value
        found = torch.tensor(value, device=self.device)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found)

    def all_reduce(self, value: torch.Tensor) -> torch.Tensor:
        """The sum over all processes, in place."""
        if self.mesh is not None:
            dist.all_reduce(value)
        return value

    def all_reduce_gradients(self, parameters: Iterable[torch.Tensor]) -> None:
        """Sum each parameter's gradient over all processes, in one message. A missing gradient counts as zero."""
        if self.mesh is None:
            return
        own = [(p, torch.zeros_like(p) if p.grad is None else p.grad) for p in parameters]
        summed = self.all_reduce(torch.cat([grad.flatten() for _, grad in own]))
        for (p, _), part in zip(own, summed.split([p.numel() for p, _ in own])):
            p.grad = part.view_as(p)

    def map_sharded(
        self, given: Sequence[torch.Tensor], make: Callable[[torch.Tensor], torch.Tensor]
    ) -> list[torch.Tensor]:
        """`make` of each tensor, on all processes; each process computes a part.

        make: its result has the shape of its input and is in bfloat16.
        """
        if self.mesh is None:
            return [make(each) for each in given]
        owners, work = [0] * len(given), [0] * self.world_size
        for i in sorted(range(len(given)), key=lambda i: -given[i].numel()):
            owners[i] = work.index(min(work))
            work[owners[i]] += given[i].numel()
        own = [make(each).flatten() for owner, each in zip(owners, given) if owner == self.rank]
        sent = torch.cat([*own, given[0].new_zeros(max(work) - work[self.rank], dtype=torch.bfloat16)])
        got = sent.new_empty(self.world_size * max(work))
        dist.all_gather_into_tensor(got, sent)  # pyright: ignore[reportDeprecated] - all_gather_single is new in torch 2.13
        sizes = [
            [each.numel() for owner, each in zip(owners, given) if owner == rank] for rank in range(self.world_size)
        ]
        made = [iter(all_[: sum(own)].split(own)) for all_, own in zip(got.view(self.world_size, -1), sizes)]
        return [next(made[owner]).view_as(each) for owner, each in zip(owners, given)]

    def barrier(self) -> None:
        """Wait until all processes get here."""
        if self.mesh is not None:
            dist.barrier()

    def leave(self) -> None:
        """Leave the process group. No sharded tensor may be used afterwards."""
        if self.mesh is not None:
            gc.collect()  # FSDP objects that still hold the group at exit can abort the process
            dist.destroy_process_group()


def world_size() -> int:
    """Number of processes that torchrun started; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_world_size() -> int:
    """Number of these processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
