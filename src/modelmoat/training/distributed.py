"""One training in several processes, each with its share of every batch; torch's launcher starts them."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # early: see `launched`
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from modelmoat.core.errors import ModelmoatError, require

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

T = TypeVar("T")

_LEAST_SHARE = 2  # images: batch norm cannot train on one
_PATIENCE = timedelta(seconds=10)  # for the first process that failed to say why


class ProcessLost(ModelmoatError):  # noqa: N818 - says what happened
    """Another process of the training ended."""


@dataclass(frozen=True)
class World:
    """The processes of one training, seen from one of them; alone, nothing is exchanged.

    What exchanges something, from :meth:`gathered` on, is called by all processes at the same point.

    Attributes:
        rank: of this process; the first, 0, is the only one that writes files.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the first process."""
        return self.rank == 0

    def share(self, rows: int) -> tuple[slice, float]:
        """This process's rows of a batch, and which part of the batch they are.

        No share has one row only: of a batch that is too small, the last processes get none.

        >>> [World(rank, 2).share(5) for rank in range(2)]
        [(slice(0, 3, None), 0.6), (slice(3, 5, None), 0.4)]
        >>> World(1, 2).share(3)
        (slice(3, 3, None), 0.0)
        """
        takers = max(1, min(self.size, rows // _LEAST_SHARE))
        first, last = (-(-rows * min(rank, takers) // takers) for rank in (self.rank, self.rank + 1))
        return slice(first, last), (last - first) / rows

    def check_batch(self, batch_size: int, rows: int) -> None:
        """Raise `OptionError` where a full batch of ``rows`` images is too small to be shared."""
        least = _LEAST_SHARE * self.size
        if self.size > 1:
            reason = f"{self.size} processes need {_LEAST_SHARE} images of every batch each"
            require(batch_size >= least, f"batch_size={batch_size}: {reason}; fix: {least} or more, or fewer processes")
            require(rows >= least, f"{rows} training images: {reason}; fix: more images, or fewer processes")

    def own_device(self, device: str) -> str:
        """The device of this process where all were told ``device``: each takes a GPU of its own.

        Raises:
            OptionError: a single GPU for several processes, or more processes than GPUs.
        """
        if self.size == 1 or device == "cpu":
            return device
        require(device == "cuda", f"--device {device}: {self.size} processes need a GPU each; fix: --device cuda")
        local, here = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        require(
            local < here,
            f"--nproc-per-node {os.environ['LOCAL_WORLD_SIZE']}: this machine has {here} CUDA devices, one for each process; "
            f"fix: --nproc-per-node {here}",
        )
        torch.cuda.set_device(local)
        return f"cuda:{local}"

    def gathered(self, value: T) -> list[T]:
        """What each process gave, in the order of their ranks; nobody goes on before all are here."""
        values = [value] * self.size
        if self.size > 1:
            with _reaching_others():
                dist.all_gather_object(values, value)
        return values

    def from_main(self, make: Callable[[], T]) -> T:
        """What the first process makes, on all of them; the others only wait for it."""
        return self.gathered(make() if self.is_main else None)[0]  # type: ignore[return-value]

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over the processes."""
        if self.size > 1:
            _as_one(tensors, dist.all_reduce)

    def copy_main(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by that of the first process."""
        if self.size > 1:
            _as_one(tensors, lambda flat: dist.broadcast(flat, src=0))

    @torch.no_grad()
    def average(self, tensors: Iterable[Tensor], weight: float) -> None:
        """Replace each tensor by its mean over the processes, where this one counts with ``weight``."""
        if self.size > 1:
            self.add_up([tensor.mul_(weight) for tensor in tensors])

    @torch.no_grad()
    def average_gradients(self, parameters: Sequence[Tensor], weight: float) -> None:
        """Replace each gradient by its weighted mean; a parameter gets one where any process has one for it."""
        if self.size == 1:
            return
        has = [parameter.grad is not None for parameter in parameters]
        counts = torch.tensor(has, dtype=torch.float32, device=parameters[0].device)
        means = [torch.zeros_like(each) if each.grad is None else each.grad * weight for each in parameters]
        self.add_up([*means, counts])
        anywhere = has if all(has) else counts.tolist()  # asks the device only where it must
        for parameter, mean, reached in zip(parameters, means, anywhere, strict=True):
            if reached:
                parameter.grad = mean


ALONE = World()


@contextmanager
def launched() -> Iterator[World]:
    """The processes that ``torchrun`` started, connected while the block runs; this one alone without it.

    Whichever process fails first raises its error. The others end with `SystemExit` 1 and no word, so that one error is
    shown once, be it everyone's or one process's own.

    Raises:
        ProcessLost: another process was killed and could not say why.
    """
    # torch.distributed.nn.functional takes the connection as a default argument where it is imported while there is one, and
    # keeps it to the end: its threads then outlive the interpreter, which now and then aborts. Hence the import up there.
    if not dist.is_torchelastic_launched() or os.environ["WORLD_SIZE"] == "1":
        yield ALONE
        return
    store, rank, size = next(iter(rendezvous("env://")))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    try:
        yield World(rank, size)
    except BaseException:
        first = _is_first_to_fail(store, rank)
        if backend == "gloo":  # nccl would wait for processes that are gone
            dist.destroy_process_group()
        if not first:
            raise SystemExit(1) from None
        raise
    with _reaching_others():
        dist.barrier()  # nobody leaves while another still writes: a closed connection can end that one badly
    dist.destroy_process_group()


def _is_first_to_fail(store: Store, rank: int) -> bool:
    """Whether no other process failed before; if one did, return when it has said why: the launcher then ends all."""
    with suppress(RuntimeError):  # the store is gone, and with it whoever kept it
        if store.compare_set("failed", "", str(rank)).decode() == str(rank):
            atexit.register(store.set, "told", "")
            return True
        store.wait(["told"], _PATIENCE)
    return False


@contextmanager
def _reaching_others() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise ProcessLost(
            "another process of this training is gone and did not say why (killed, or out of memory?); what was saved is "
            "whole; fix: run the same command again to go on"
        ) from error


def _as_one(tensors: Iterable[Tensor], exchange: Callable[[Tensor], object]) -> None:
    """Exchange many tensors in place at the price of one, for each device and type."""
    alike: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        alike.setdefault((tensor.device, tensor.dtype), []).append(tensor.detach())
    for group in alike.values():
        flat = torch.cat([tensor.flatten() for tensor in group])
        with _reaching_others():
            exchange(flat)
        for tensor, part in zip(group, flat.split([tensor.numel() for tensor in group]), strict=True):
            tensor.copy_(part.view_as(tensor))
