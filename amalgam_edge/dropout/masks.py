"""Dropout masks as a pure function of (seed, site, pass, unit), in 32-bit integer arithmetic.

Monte-Carlo dropout (Gal and Ghahramani, ICML 2016) runs a model several times with dropout on; each run is a pass,
numbered k = 0, 1, 2, … A site is one call of dropout, a unit one of the values that it may drop. Masks are hashed
rather than drawn from a generator, so that a pass can be repeated, whatever was run before it and in what batch.

The same code runs in torch and, as :mod:`amalgam_edge.exporters.tracing.live_dropout`, in ONNX graphs. It is therefore
made of what every runtime computes alike: additions and products that wrap around modulo 2³², comparisons, and, on
small tensors only, right shifts of words whose sign bit is clear.

**Hash of a unit.** The last axis of a site's shape is its column c, all other axes together are its row r. Both are
hashed with care, to words a and b each, and a unit costs no more than two sums and a product::

    h = (a_r + a_c) · (b_r + b_c)  mod 2³²,   a_r odd, a_c even

Over random words any two units' hashes are exactly independent. What three or more have in common is a product of
unknown words.

**Independent masks.** A unit is dropped in a pass where u = h / 2³² < p, with a new hash in each pass.

**Systematic masks.** Passes come in rounds of K. Over a round, masks are a Latin hypercube sample (McKay, Beckman and
Conover, Technometrics 1979): with one hash a round, the unit is dropped in pass k of the round where ::

    (u + s · k / K) mod 1 < p,   s coprime to K

Within a pass, units are independent and each is dropped with probability p. Over a round, each unit is dropped ⌊pK⌋ or
⌈pK⌉ times (one unit in 10⁷ once more or less, where K does not divide 2³²). The stride s is the product of a stride of
the row and one of the column, both coprime to K. Were it the same for all units, pairs of units would be dropped
together or not at all: measured so, errors of averages over passes stopped shrinking at K ≈ 1 / p.

Values that stay are multiplied by 1 / (1 − p), so that means stay as they are (inverted dropout; Srivastava et al.,
JMLR 2014, section 10).
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

# Any change here changes all scores. Each word is an int32; "signed" says that its top bit is the sign.
MULTIPLIERS = (0x7FEB352D, 0x21F0AAAD)  # odd, so that multiplying can be undone
GOLDEN = -0x61C88647  # 2³² / φ as a signed word: multiples of it are spread evenly (Knuth, TAOCP 3, section 6.4)
POSITIVE = (1 << 31) - 1  # the largest word, and the mask that clears the sign
LOWEST = -(1 << 31)  # the smallest word
_WORDS = 1 << 32  # how many words there are
SEED_SALT, COLUMN_SALT, FACTOR_SALT = 0x3C6EF372, 0x1B873593, 0x5A827999  # arbitrary; they set uses of a word apart
CHOICE_BITS = 15  # bits of a word that choose a stride


def mix(words: torch.Tensor) -> torch.Tensor:
    """Scramble words of int32, one to one.

    Each bit of the input but the sign flips each bit of the output for about half of the words; the sign flips nothing
    but the sign. This is a finaliser of the xor-shift-multiply kind, like that of Appleby's MurmurHash3.
    """
    for multiplier in MULTIPLIERS:
        words = (words ^ ((words & POSITIVE) >> 15)) * multiplier
    return words ^ ((words & POSITIVE) >> 16)


def coordinate_words(size: int, device: torch.device | None = None) -> torch.Tensor:
    """A word of int32 for each coordinate of an axis, ``(size,)``; it does not depend on the size of the axis."""
    return mix((torch.arange(size, dtype=torch.int32, device=device) + 1) * GOLDEN)


def site_word(seed: torch.Tensor, site: int, round_number: int) -> torch.Tensor:
    """The word that all hashes of a dropout site in one round of passes start from, a scalar of int32.

    Args:
        seed: Seed of the masks, a scalar of int32.
        site: Number of the site.
        round_number: Number of the round of passes.
    """
    round_word = mix(torch.full_like(seed, _wrapped((round_number + 1) * GOLDEN)))
    return mix(mix(mix(seed ^ SEED_SALT) + round_word) + site_offset(site))


def site_offset(site: int) -> int:
    """A signed word that differs between sites; it is added to a word that they share."""
    return _wrapped((site + 1) * GOLDEN)


@dataclass(frozen=True)
class UnitHashes:
    """The random words of a site's units in one round, from which the masks of its passes are made.

    Attributes:
        hashes: The hash h of each unit, uniform over all words, of the site's shape.
        row_choices: 15-bit number that chooses the stride of each row, ``(..., 1)``.
        column_choices: 15-bit number that chooses the stride of each column, ``(n_columns,)``.
    """

    hashes: torch.Tensor
    row_choices: torch.Tensor
    column_choices: torch.Tensor

    def crop(self, shape: Sequence[int]) -> UnitHashes:
        """The hashes of a site whose shape is smaller, or the same, along every axis."""
        index = tuple(slice(size) for size in shape)
        return UnitHashes(self.hashes[index], self.row_choices[index[:-1]], self.column_choices[index[-1]])


def unit_hashes(word: torch.Tensor, shape: Sequence[int]) -> UnitHashes:
    """Hash every unit of a site.

    A unit's hash depends on its coordinates and not on ``shape``: a longer text extends the array, and the hashes that
    it shares with a shorter text stay as they are.

    Args:
        word: Word of the site, a scalar of int32; see :func:`site_word`.
        shape: Shape of the site without the batch, at least one axis. The last axis numbers the columns, all others
            together the rows.
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
    """The topmost 15 bits below the sign of each word."""
    return (words & POSITIVE) >> (31 - CHOICE_BITS)


class DropoutPass:
    """One pass of a model with dropout on: which units it drops.

    Rounds are independent of each other. Independent masks are the case of rounds of a single pass.

    Args:
        number: Number of the pass; :data:`DROPOUT_OFF` drops nothing.
        passes: K, the number of passes over which systematic masks are balanced.
        masks: ``systematic`` or ``independent``.

    Attributes:
        round_number: Number of the round that the pass belongs to.
    """

    def __init__(self, number: int, passes: int, masks: Masks) -> None:
        length = round_length(passes, masks)
        self._live = number >= 0
        self.round_number, self._position = divmod(number, length)
        self._round_length = length

    def mask(self, units: UnitHashes, p: float) -> torch.Tensor:
        """The factor of each value of a site: 0 where it is dropped, else 1 / (1 − p); float32 of the site's shape."""
        if not self._live:
            return torch.ones_like(units.hashes, dtype=torch.float32)
        return (self._shifted_hashes(units) >= threshold(p)).to(torch.float32) * scale(p)

    def _shifted_hashes(self, units: UnitHashes) -> torch.Tensor:
        """Words for h + s · k / K: the hashes, moved on by each unit's stride times the position in the round."""
        if self._round_length == 1:
            return units.hashes
        choosable, shifts = _strides_and_shifts(self._round_length, self._position, units.hashes.device)
        rows, columns = (
            (choices * len(choosable)) >> CHOICE_BITS for choices in (units.row_choices, units.column_choices)
        )
        return units.hashes + shifts[rows] * choosable[columns]


@lru_cache
def _strides_and_shifts(length: int, position: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The strides of a round of ``length`` passes, and how far each moves a hash by the pass at ``position``."""
    choosable = torch.tensor(strides(length), dtype=torch.int32, device=device)
    return choosable, choosable * position % length * step(length)


def round_length(passes: int, masks: Masks) -> int:
    """The number of passes in a round: K for systematic masks, one for independent ones."""
    return passes if masks == "systematic" else 1


def strides(passes: int) -> list[int]:
    """The numbers from 1 to K that are coprime to K."""
    return [stride for stride in range(1, passes + 1) if math.gcd(stride, passes) == 1]


def step(passes: int) -> int:
    """The distance between the shifts of two passes, 2³² / K rounded down, as a signed word."""
    return _wrapped(_WORDS // passes)


def threshold(p: float) -> int:
    """The lowest word whose unit stays when units are dropped with probability ``p``: −2³¹ + p · 2³²."""
    return min(LOWEST + round(p * _WORDS), POSITIVE)


def scale(p: float) -> float:
    """The factor of the units that stay, 1 / (1 − p)."""
    return 1.0 / (1.0 - p) if p < 1.0 else 0.0


def _wrapped(number: int) -> int:
    """The signed word with the lowest 32 bits of an integer."""
    return (number - LOWEST) % _WORDS + LOWEST
