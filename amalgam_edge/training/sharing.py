"""One batch on several processes: each process reads a share of it, and all have the loss of the whole batch.

A loss may be a statistic of its batch (the discrepancy of ``cfl`` is one), and the last batch of an epoch may be shared
unevenly. The mean of the processes' losses would then be a different loss. So the student's outputs are gathered
instead: each process computes the loss of the whole batch and sends its gradient back through its own share alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from transformers.trainer_pt_utils import LengthGroupedSampler


def n_processes() -> int:
    """The number of processes that train together; 1 if this process is alone."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_rank() -> int:
    """The rank of this process among those that train together; 0 if it is alone."""
    return dist.get_rank() if n_processes() > 1 else 0


def gather_batch(local: Sequence[torch.Tensor], n_local: int) -> list[torch.Tensor]:
    """The rows of all processes in the order of their ranks. Every process must call it.

    If every process computes the same loss from the result, then the mean over the processes of the gradients that
    reach the parameters is the gradient of that loss. This holds for parameters before the gathering and after it.

    Args:
        local: The tensors of this process, each ``(n, …)``.
        n_local: How many of the ``n`` rows count. A process whose share is empty has one row that does not count.

    Returns:
        For each tensor of ``local``, one of ``(n_all, …)`` in float32.
    """
    flat = torch.cat(
        [part.float().flatten(start_dim=1) if part.ndim > 1 else part.float()[:, None] for part in local], 1
    )
    counts = _gather_counts(n_local, flat.device)
    rows: torch.Tensor = _GatherRows.apply(flat, counts, dist.get_rank())  # type: ignore[no-untyped-call]
    widths = [math.prod(part.shape[1:]) for part in local]
    return [
        gathered.reshape(len(gathered), *part.shape[1:])
        for gathered, part in zip(torch.split(rows, widths, 1), local, strict=True)
    ]


def _gather_counts(n_local: int, device: torch.device) -> list[int]:
    counts = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, torch.tensor([n_local], device=device))
    return [int(count) for count in counts]


class _GatherRows(torch.autograd.Function):
    """Gathers the rows of all processes. The gradient of a process' own rows is multiplied by the number of processes.

    Every process computes the same loss of all rows, so no gradient has to be sent to another process. Gradients of
    parameters are averaged over the processes, but each process has only the part of its own rows, so they must be
    summed. Multiplying by the number of processes turns the average into a sum.
    """

    @staticmethod
    def forward(ctx: Any, local: torch.Tensor, counts: list[int], rank: int) -> torch.Tensor:
        ctx.shape, ctx.counts, ctx.rank = local.shape, counts, rank
        padded = local.new_zeros(max(counts), local.shape[1])
        padded[: counts[rank]] = local[: counts[rank]]
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gradient,) = gradients
        start, count = sum(ctx.counts[: ctx.rank]), ctx.counts[ctx.rank]
        local = gradient.new_zeros(ctx.shape)
        local[:count] = gradient[start : start + count] * len(ctx.counts)
        return local, None, None


class SharedBatchSampler(torch.utils.data.Sampler[list[int]]):
    """Yields this process' rows of each batch. The batches are those that one process alone would read.

    The texts of a batch have similar lengths, the longest first, so they are dealt out one by one.

    Args:
        lengths: The number of tokens of each text, ``(n_texts,)``.
        batch_size: Number of texts per batch, over all processes.
        rank: Rank of this process.
        world_size: Number of processes.
        device: Device of the tensors that processes exchange.
        seed: Seed of the order. None for a new order in each epoch, drawn from the random state of the first process.
    """

    def __init__(
        self,
        lengths: list[int],
        batch_size: int,
        rank: int,
        world_size: int,
        device: torch.device,
        seed: int | None = None,
    ) -> None:
        self._lengths = lengths
        self.batch_size = batch_size
        self._rank = rank
        self._world_size = world_size
        self._device = device
        self._seed = seed

    def __len__(self) -> int:
        return math.ceil(len(self._lengths) / self.batch_size)

    @property
    def batch_sizes(self) -> list[int]:
        """The number of texts in each batch, over all processes."""
        n_texts = len(self._lengths)
        return [min(self.batch_size, n_texts - start) for start in range(0, n_texts, self.batch_size)]

    def __iter__(self) -> Iterator[list[int]]:
        order = self._order()
        for start in range(0, len(order), self.batch_size):
            yield order[start : start + self.batch_size][self._rank :: self._world_size]

    def _order(self) -> list[int]:
        if self._seed is not None:
            generator = torch.Generator().manual_seed(self._seed)
            return list(LengthGroupedSampler(self.batch_size, lengths=self._lengths, generator=generator))
        state = torch.get_rng_state().to(self._device)
        dist.broadcast(state, src=0)
        if self._rank == 0:  # its random state advances as if it were alone
            return list(LengthGroupedSampler(self.batch_size, lengths=self._lengths))
        with torch.random.fork_rng(devices=()):
            torch.set_rng_state(state.cpu())
            return list(LengthGroupedSampler(self.batch_size, lengths=self._lengths))


class ShareCollator:
    """Joins this process' share of a batch and adds the number of rows that count, as ``n_local``.

    Args:
        collate: Function examples → batch.
        placeholder: Example that stands in an empty share. It does not count.
    """

    def __init__(
        self, collate: Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]], placeholder: Mapping[str, Any]
    ) -> None:
        self._collate = collate
        self._placeholder = placeholder

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """A batch of the examples."""
        return {**self._collate(examples or [self._placeholder]), "n_local": len(examples)}
