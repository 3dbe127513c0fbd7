"""One batch on several processes: each reads its share, and all have the loss of the whole batch.

A loss may be a statistic of its batch (the discrepancy of ``cfl`` is), and the last batch of an epoch may be shared
unevenly, so the mean of the processes' losses would be another loss. What the student makes of the shares is gathered
instead: each process has the loss of the whole batch, and sends its gradient back through its own share alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from transformers.trainer_pt_utils import LengthGroupedSampler


def n_processes() -> int:
    """How many processes fit together; 1 where this one is alone."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_rank() -> int:
    """Which of them this one is; 0 where it is alone."""
    return dist.get_rank() if n_processes() > 1 else 0


def whole_batch(own: Sequence[torch.Tensor], n_own: int) -> list[torch.Tensor]:
    """The rows of all processes, those of the first first; every process must call it.

    Args:
        own: tensors of this process, each of ``(n, …)``.
        n_own: how many of the ``n`` rows count; a process whose share is empty has one row that does not.

    Returns:
        For each of ``own`` one of ``(n_all, …)`` of float32. If every process computes the same loss of them, the mean
        over the processes of what it sends back to parameters is its gradient, of those before the gathering as of
        those after it.
    """
    flat = torch.cat([part.float().flatten(start_dim=1) if part.ndim > 1 else part.float()[:, None] for part in own], 1)
    counts = _counts(n_own, flat.device)
    rows: torch.Tensor = _Gathering.apply(flat, counts, dist.get_rank())  # type: ignore[no-untyped-call]
    widths = [math.prod(part.shape[1:]) for part in own]
    return [
        part.reshape(len(part), *one.shape[1:]) for part, one in zip(torch.split(rows, widths, 1), own, strict=True)
    ]


def _counts(n_own: int, device: torch.device) -> list[int]:
    counts = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, torch.tensor([n_own], device=device))
    return [int(count) for count in counts]


class _Gathering(torch.autograd.Function):
    """Rows of all processes. Backwards, each keeps its own rows' gradient times the number of processes.

    Every process has the same loss of all rows, so nothing need be sent back; and as gradients of parameters are
    averaged over the processes, of which each has the part of its own rows, the number of them makes that a sum.
    """

    @staticmethod
    def forward(ctx: Any, own: torch.Tensor, counts: list[int], rank: int) -> torch.Tensor:
        ctx.shape, ctx.counts, ctx.rank = own.shape, counts, rank
        even = own.new_zeros(max(counts), own.shape[1])
        even[: counts[rank]] = own[: counts[rank]]
        parts = [torch.empty_like(even) for _ in counts]
        dist.all_gather(parts, even)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gradient,) = gradients
        start, count = sum(ctx.counts[: ctx.rank]), ctx.counts[ctx.rank]
        own = gradient.new_zeros(ctx.shape)
        own[:count] = gradient[start : start + count] * len(ctx.counts)
        return own, None, None


class Shares(torch.utils.data.Sampler[list[int]]):
    """This process' rows of each batch; the batches are those that one process alone would make.

    Texts of a batch are of like length, the longest first, so they are dealt out one by one.

    Args:
        lengths: tokens of each text, ``(n_texts,)``.
        batch_size: texts a batch, over all processes.
        rank: which process this is.
        size: how many there are.
        device: where tensors are that processes exchange.
        seed: of the order; None for an order that is new each time, the first process' random numbers deciding.
    """

    def __init__(
        self, lengths: list[int], batch_size: int, rank: int, size: int, device: torch.device, seed: int | None = None
    ) -> None:
        self._lengths = lengths
        self.batch_size = batch_size
        self._rank = rank
        self._size = size
        self._device = device
        self._seed = seed

    def __len__(self) -> int:
        return math.ceil(len(self._lengths) / self.batch_size)

    @property
    def counts(self) -> list[int]:
        """Texts of each batch, over all processes."""
        n_texts = len(self._lengths)
        return [min(self.batch_size, n_texts - start) for start in range(0, n_texts, self.batch_size)]

    def __iter__(self) -> Iterator[list[int]]:
        order = self._order()
        for start in range(0, len(order), self.batch_size):
            yield order[start : start + self.batch_size][self._rank :: self._size]

    def _order(self) -> list[int]:
        if self._seed is not None:
            generator = torch.Generator().manual_seed(self._seed)
            return list(LengthGroupedSampler(self.batch_size, lengths=self._lengths, generator=generator))
        state = torch.get_rng_state().to(self._device)
        dist.broadcast(state, src=0)
        if self._rank == 0:  # its random numbers go on as if it were alone
            return list(LengthGroupedSampler(self.batch_size, lengths=self._lengths))
        with torch.random.fork_rng(devices=()):
            torch.set_rng_state(state.cpu())
            return list(LengthGroupedSampler(self.batch_size, lengths=self._lengths))


class JoinShare:
    """Joins a process' share of a batch, and says how many of its rows count.

    Args:
        join: examples → batch.
        stand_in: the example that an empty share has in the place of none; it does not count.
    """

    def __init__(self, join: Any, stand_in: Mapping[str, Any]) -> None:
        self._join = join
        self._stand_in = stand_in

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """A batch of the examples."""
        return {**self._join(examples or [self._stand_in]), "n_own": len(examples)}
