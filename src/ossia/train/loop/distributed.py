"""This process among those that torchrun started, and what they decide together.

In: torchrun's environment. Out: a rank, a device, a mesh to shard over.
It does not know what is trained.
"""

import gc
import os
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh


class DistributedContext(NamedTuple):
    """`mesh` is None where this process is alone; `device` is its own."""

    rank: int = 0
    size: int = 1
    mesh: DeviceMesh | None = None
    device: str = "cpu"

    @staticmethod
    def join(kind: str) -> "DistributedContext":
        """Join the others if torchrun started this process, else be alone; on a device of this kind."""
        size = asked()
        if size == 1:
            return DistributedContext(device=kind)
        device = kind
        if kind == "cuda":
            local = int(os.environ.get("LOCAL_RANK", "0"))
            if local >= torch.cuda.device_count():
                raise ValueError(f"process {local} has no GPU of its own: torch sees {torch.cuda.device_count()}")
            device = f"cuda:{local}"
            torch.cuda.set_device(local)
        mesh = init_device_mesh(kind, (size,))
        return DistributedContext(dist.get_rank(), size, mesh, device)

    @property
    def leads(self) -> bool:
        """Whether this one writes and speaks for all."""
        return self.rank == 0

    def most(self, value: int) -> int:
        """The largest of all processes' values."""
        if self.mesh is None:
            return value
        found = torch.tensor(value, device=self.device)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found)

    def add(self, value: torch.Tensor) -> torch.Tensor:
        """The sum of all processes' values."""
        if self.mesh is not None:
            dist.all_reduce(value)
        return value

    def add_gradients(self, parameters: Iterable[torch.Tensor]) -> None:
        """Each parameter's gradient becomes the sum of all processes', in one message. None counts as nothing."""
        if self.mesh is None:
            return
        own = [(p, torch.zeros_like(p) if p.grad is None else p.grad) for p in parameters]
        summed = self.add(torch.cat([grad.flatten() for _, grad in own]))
        for (p, _), part in zip(own, summed.split([p.numel() for p, _ in own])):
            p.grad = part.view_as(p)

    def each_made_once(
        self, given: Sequence[torch.Tensor], make: Callable[[torch.Tensor], torch.Tensor]
    ) -> list[torch.Tensor]:
        """`make` of each, which has its shape and is in bfloat16; every process makes a share, and all get all."""
        if self.mesh is None:
            return [make(each) for each in given]
        owners, work = [0] * len(given), [0] * self.size
        for i in sorted(range(len(given)), key=lambda i: -given[i].numel()):
            owners[i] = work.index(min(work))
            work[owners[i]] += given[i].numel()
        own = [make(each).flatten() for owner, each in zip(owners, given) if owner == self.rank]
        sent = torch.cat([*own, given[0].new_zeros(max(work) - work[self.rank], dtype=torch.bfloat16)])
        got = sent.new_empty(self.size * max(work))
        dist.all_gather_into_tensor(got, sent)
        sizes = [[each.numel() for owner, each in zip(owners, given) if owner == rank] for rank in range(self.size)]
        made = [iter(all_[: sum(own)].split(own)) for all_, own in zip(got.view(self.size, -1), sizes)]
        return [next(made[owner]).view_as(each) for owner, each in zip(owners, given)]

    def wait(self) -> None:
        """Until all are here."""
        if self.mesh is not None:
            dist.barrier()

    def leave(self) -> None:
        """For good; whatever is sharded must be out of use by then."""
        if self.mesh is not None:
            gc.collect()  # a group that FSDP's objects still hold when the interpreter ends can abort the process
            dist.destroy_process_group()


def asked() -> int:
    """How many processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def beside() -> int:
    """How many of them share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
