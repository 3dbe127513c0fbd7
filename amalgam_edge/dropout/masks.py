"""Dropout masks as a pure function of (seed, site, pass, position, feature), in 32-bit integer arithmetic.

The same code runs in torch and, traced, becomes the ONNX graph of an exported teacher; so it is made of what every
runtime computes alike: additions and products that wrap around, comparisons, and, on small tensors only, shifts of
words whose sign bit is clear.

A unit's hash is cheap because its row and its column (the last axis) are each hashed with care, and only
(a_row + a_column) · (b_row + b_column) is computed for every unit: any two units are exactly independent over the
words, and what three or more share is a product of unknown words modulo 2**32.

Systematic masks are a Latin hypercube over the passes (McKay, Beckman and Conover, Technometrics 1979): with h the
unit's hash and a its stride, coprime to K, the unit is dropped in pass k where frac(h + (a·k mod K) / K) < p. Within a
pass the units are independent and Bernoulli(p); over a round of K passes every unit is dropped ⌊pK⌋ or ⌈pK⌉ times (one
in 10⁷ once more or less, where K does not divide 2**32), and each round draws anew. The stride is the product of a
row's and a column's, which is coprime to K again. Strides keep pairs of units from rising and falling together: with
one shift k / K for all units, the errors of averages stopped shrinking at K ≈ 1 / p.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch

Masks = Literal["systematic", "independent"]

DROPOUT_OFF = -1  # the number of the pass that drops nothing

MULTIPLIERS = (0x7FEB352D, 0x21F0AAAD)
GOLDEN = -0x61C88647  # 2**32 / φ, odd, as a signed word
POSITIVE = (1 << 31) - 1
LOWEST = -(1 << 31)
_WORDS = 1 << 32
SEED_SALT, COLUMN_SALT, FACTOR_SALT = 0x3C6EF372, 0x1B873593, 0x5A827999
CHOICE_BITS = 15  # of a word that choose a stride


def mix(words: torch.Tensor) -> torch.Tensor:
    """Scramble words of int32, one to one, so that each bit but the sign flips each bit of the result half the time.

    A finaliser of the xor-shift-multiply kind, as in MurmurHash3. The sign alone flips the sign alone.
    """
    for multiplier in MULTIPLIERS:
        words = (words ^ ((words & POSITIVE) >> 15)) * multiplier
    return words ^ ((words & POSITIVE) >> 16)


def coordinate_words(size: int, device: torch.device | None = None) -> torch.Tensor:
    """A word of int32 for each coordinate of an axis, ``(size,)``; those of a longer axis begin with them."""
    return mix((torch.arange(size, dtype=torch.int32, device=device) + 1) * GOLDEN)


def site_word(seed: torch.Tensor, site: int, number_of_round: int) -> torch.Tensor:
    """The word of a dropout site in one round of passes; seed and word are scalars of int32."""
    round_word = mix(torch.full_like(seed, _wrapped((number_of_round + 1) * GOLDEN)))
    return mix(mix(mix(seed ^ SEED_SALT) + round_word) + site_offset(site))


def site_offset(site: int) -> int:
    """What sets a site apart from the others, as a signed word."""
    return _wrapped((site + 1) * GOLDEN)


@dataclass(frozen=True)
class UnitHashes:
    """What is drawn for every unit of a site, before the pass is known.

    Attributes:
        hashes: words, uniform over all 2**32, of the site's shape.
        rows: 15-bit numbers that choose the rows' strides, ``(..., 1)``.
        columns: 15-bit numbers that choose the columns' strides, ``(n_columns,)``.
    """

    hashes: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor

    def cut(self, shape: Sequence[int]) -> UnitHashes:
        """The same for a shape that is nowhere larger."""
        index = tuple(slice(size) for size in shape)
        return UnitHashes(self.hashes[index], self.rows[index[:-1]], self.columns[index[-1]])


def unit_hashes(word: torch.Tensor, shape: Sequence[int]) -> UnitHashes:
    """Draw for every unit of a site.

    A unit's draw depends on its own coordinates and not on ``shape``: longer texts extend the array, and what was
    there stays.

    Args:
        word: the site's, a scalar of int32.
        shape: at least one axis; the last one's coordinates are columns, all others' together rows.
    """
    *row_axes, n_columns = shape
    rows = word.reshape([1] * len(shape))
    for axis, size in enumerate(row_axes):
        words = coordinate_words(size, word.device)
        rows = mix(rows + words.reshape([-1 if other == axis else 1 for other in range(len(shape))]))
    columns = mix((word ^ COLUMN_SALT) + coordinate_words(n_columns, word.device))
    row_factors, column_factors = mix(rows ^ FACTOR_SALT), mix(columns ^ FACTOR_SALT)
    hashes = ((rows | 1) + (columns & -2)) * (row_factors + column_factors)
    return UnitHashes(hashes, _choices(row_factors), _choices(column_factors))


def _choices(words: torch.Tensor) -> torch.Tensor:
    return (words & POSITIVE) >> (31 - CHOICE_BITS)


class DropoutPass:
    """One pass: which units it drops.

    Passes come in rounds of K, over which systematic masks are balanced; a round is independent of the others, and
    independent masks are rounds of one.

    Args:
        number: of the pass; :data:`DROPOUT_OFF` drops nothing.
        passes: K.
        masks: ``systematic`` or ``independent``.

    Attributes:
        number_of_round: that it belongs to.
    """

    def __init__(self, number: int, passes: int, masks: Masks) -> None:
        length = round_length(passes, masks)
        self._live = number >= 0
        self.number_of_round, self._turn = divmod(number, length)
        self._length = length

    def mask(self, drawn: UnitHashes, p: float) -> torch.Tensor:
        """What to multiply a site's values with: 0 where dropped, else 1 / (1 − p); float32 of the site's shape."""
        if not self._live:
            return torch.ones_like(drawn.hashes, dtype=torch.float32)
        return (self._moved(drawn) >= threshold(p)).to(torch.float32) * scale(p)

    def _moved(self, drawn: UnitHashes) -> torch.Tensor:
        if self._length == 1:
            return drawn.hashes
        lengths, shifts = _moves(self._length, self._turn, drawn.hashes.device)
        rows, columns = ((choices * len(lengths)) >> CHOICE_BITS for choices in (drawn.rows, drawn.columns))
        return drawn.hashes + shifts[rows] * lengths[columns]


@lru_cache
def _moves(length: int, turn: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The strides of a round, and how far each has moved by one of its passes."""
    lengths = torch.tensor(strides(length), dtype=torch.int32, device=device)
    return lengths, lengths * turn % length * step(length)


def round_length(passes: int, masks: Masks) -> int:
    """How many passes a round has."""
    return passes if masks == "systematic" else 1


def strides(passes: int) -> list[int]:
    """The numbers up to K that are coprime to K."""
    return [stride for stride in range(1, passes + 1) if math.gcd(stride, passes) == 1]


def step(passes: int) -> int:
    """The K-th part of all words, as a signed word."""
    return _wrapped(_WORDS // passes)


def threshold(p: float) -> int:
    """The lowest word that stays when units are dropped with probability ``p``."""
    return min(LOWEST + round(p * _WORDS), POSITIVE)


def scale(p: float) -> float:
    """What the units that stay are multiplied with."""
    return 1.0 / (1.0 - p) if p < 1.0 else 0.0


def _wrapped(number: int) -> int:
    """An integer as the signed word that has its lowest 32 bits."""
    return (number - LOWEST) % _WORDS + LOWEST
