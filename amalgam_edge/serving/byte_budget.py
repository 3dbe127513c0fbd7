"""A bound on the bytes that all requests together keep in memory."""

from __future__ import annotations

# Of each request: they never count, so that small requests are answered while large ones are refused.
FREE_BYTES = 16_384


class ByteBudget:
    """Bytes that may be taken until others give theirs back. Used on one event loop.

    Args:
        size: Most bytes that are taken at a time.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._taken = 0

    @property
    def taken(self) -> int:
        """The number of bytes that are taken now."""
        return self._taken

    def share(self) -> BudgetShare:
        """The share of one request, which has taken nothing yet."""
        return BudgetShare(self)

    def take(self, n_bytes: int) -> bool:
        """Take bytes, unless there are not as many left; whether they were taken."""
        if self._taken + n_bytes > self._size:
            return False
        self._taken += n_bytes
        return True

    def give_back(self, n_bytes: int) -> None:
        """Give bytes back."""
        self._taken -= n_bytes


class BudgetShare:
    """What one request has taken of a budget. Its first :data:`FREE_BYTES` are free."""

    __slots__ = ("_budget", "_counted", "_used")

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self._used = 0
        self._counted = 0

    def take(self, n_bytes: int) -> bool:
        """Take more bytes, unless there are not as many left; whether they were taken."""
        self._used += n_bytes
        missing = self._used - FREE_BYTES - self._counted
        if missing <= 0:
            return True
        if not self._budget.take(missing):
            return False
        self._counted += missing
        return True

    def give_back(self) -> None:
        """Give everything back."""
        self._budget.give_back(self._counted)
        self._used = self._counted = 0
