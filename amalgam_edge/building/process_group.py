"""The group of processes that share a training run: how it is formed, and what can be shared."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import Store

from amalgam_edge.errors import AmalgamError
from amalgam_edge.inference.devices import resolve_device
from amalgam_edge.recipe.sections import TrainingSettings

GO_ON = "build again with --resume to go on from the last epoch that was finished"


@contextmanager
def process_group(settings: TrainingSettings, store: Store | None, rank: int, size: int) -> Iterator[None]:
    """A group of processes while entered, connected by NCCL on GPUs and by gloo elsewhere.

    Args:
        settings: Settings of the training loop.
        store: The store by which the processes find each other; None for the one that the environment names.
        rank: Number of this process.
        size: Number of processes.

    Raises:
        AmalgamError: Another process ended.
    """
    on_cuda = settings.device != "cpu" and torch.cuda.is_available()
    if on_cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # otherwise accelerate chooses a number
    dist.init_process_group("nccl" if on_cuda else "gloo", store=store, rank=rank, world_size=size)
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error).lower():
            raise
        raise AmalgamError(f"training on {size} processes: another process ended; {GO_ON}") from error
    finally:
        dist.destroy_process_group()


def check_shares(settings: TrainingSettings, size: int, size_here: int) -> None:
    """Refuse training that some processes cannot share.

    Args:
        settings: Settings of the training loop.
        size: Number of processes.
        size_here: Number of processes on this machine.

    Raises:
        AmalgamError: Batches cannot be shared evenly, or there is no GPU for each process.
    """
    if settings.batch_size % size:
        nearest = max(1, round(settings.batch_size / size)) * size
        raise AmalgamError(
            f"--batch-size {settings.batch_size}: {size} processes cannot share it evenly; use {nearest}, or another "
            "number of processes"
        )
    if resolve_device(settings.device).type != "cuda":
        return
    if ":" in settings.device:
        raise AmalgamError(f"--device {settings.device}: {size} processes take a GPU each; use --device cuda")
    if size_here > torch.cuda.device_count():
        raise AmalgamError(
            f"{size_here} processes but {torch.cuda.device_count()} GPU(s) here; start one a GPU, or use --device cpu"
        )


def threads_per_process(threads: int, size: int) -> int:
    """Threads of each of ``size`` processes that share ``threads`` evenly; at least one."""
    return max(1, threads // size)
