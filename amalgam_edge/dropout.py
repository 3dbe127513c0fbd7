"""Monte-Carlo dropout whose masks are a function of (seed, site, pass, position, feature) alone.

A site is one call of dropout within a forward run, numbered in order of execution, so that a layer that runs many
times (ALBERT) has a site for each run. A pass has one mask per site, shared by all the texts of a batch: each text
still sees independent Bernoulli masks over its own units, and its score no longer depends on its batch.

Systematic masks are a Latin hypercube over the passes (McKay, Beckman and Conover, Technometrics 1979): with h the
unit's hash and a its stride, drawn by hash from the numbers coprime to K, the unit is dropped in pass k where
frac(h + (a·k mod K) / K) < p. Within a pass the units are independent and Bernoulli(p); over the K passes every unit
is dropped ⌊pK⌋ or ⌈pK⌉ times. The strides keep pairs of units from rising and falling together: with one shift k / K
for all units, the errors of averages stopped shrinking at K ≈ 1 / p.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from amalgam_edge.errors import AmalgamError

Masks = Literal["systematic", "independent"]

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0x7FEB352D, 0x21F0AAAD)  # odd and below 2**31: a product with a 32-bit word fits an int64
_BITS = 24  # of the hash that decide whether a unit falls; p is resolved to 2**-24
_UNIT = 1 << _BITS
_SITE_OFFSET = 0x9E3779B9
_STRIDE_BITS = 0xFF  # the hash' lowest bits, far below p's resolution, choose the stride


def mix(word: torch.Tensor) -> torch.Tensor:
    """Scramble 32-bit words held in int64 so that each input bit flips each output bit about half the time.

    A finaliser of the xor-shift-multiply kind (as in MurmurHash3), twice over; every step is a bijection.
    """
    for multiplier in _MULTIPLIERS:
        word = word ^ (word >> 16)
        word = (word * multiplier) & _WORD
        word = word ^ (word >> 15)
    return word


def unit_hashes(seed: int, site: int, shape: Sequence[int]) -> torch.Tensor:
    """The 24-bit hash of every unit of one site: ``shape`` of int32.

    A unit's hash depends on its own coordinates and not on ``shape``: longer texts extend the array, and what was
    there stays.
    """
    word = mix(torch.tensor(seed & _WORD, dtype=torch.int64) ^ mix(torch.tensor((seed >> 32) & _WORD)))
    # Without the offset a zero word would make row c of site s the same as row s - 1 of site c + 1.
    word = mix(word ^ ((site + _SITE_OFFSET) & _WORD))
    for axis, size in enumerate(shape):
        coordinate = torch.arange(size, dtype=torch.int64).reshape([-1] + [1] * (len(shape) - axis - 1))
        word = mix((word + mix(coordinate + 1)) & _WORD)
    return (word >> (32 - _BITS)).to(torch.int32)


@lru_cache
def _shifts(mc_pass: int, passes: int) -> tuple[int, ...]:
    """How far each stride has moved a unit's hash by pass ``mc_pass``."""
    strides = (stride for stride in range(1, passes + 1) if math.gcd(stride, passes) == 1)
    return tuple((stride * mc_pass % passes) * _UNIT // passes for stride in strides)


def keep_mask(hashes: torch.Tensor, p: float, mc_pass: int, passes: int) -> torch.Tensor:
    """Where units stay, in pass ``mc_pass`` of ``passes``, under systematic masks: bool of the hashes' shape."""
    shifts = _shifts(mc_pass, passes)
    shift = torch.tensor(shifts, dtype=torch.int32, device=hashes.device)[(hashes & _STRIDE_BITS) % len(shifts)]
    return ((hashes + shift) & (_UNIT - 1)) >= round(p * _UNIT)


@dataclass(frozen=True)
class DropoutSite:
    """One call of dropout in a forward run.

    Attributes:
        number: in order of execution, from zero.
        module: the name of the module that calls.
        p: the probability.
        batched: whether its first axis is the batch (DeBERTa's table of relative positions has none).
        shape: of what it drops from in the run that found it, without the batch.
    """

    number: int
    module: str
    p: float
    batched: bool
    shape: tuple[int, ...]


class LiveDropout(TorchFunctionMode):
    """While entered, every dropout of a model in training mode applies the masks of the pass chosen with ``start``.

    Sites with p = 0 leave their input alone but keep their number.

    Args:
        seed: of the masks.
        passes: K, over which systematic masks are balanced.
        masks: ``systematic`` (balanced over passes) or ``independent`` (drawn anew for each).
        unbatched: numbers of the sites whose first axis is not the batch; see :func:`find_sites`.

    Raises:
        AmalgamError: in a forward run, where the model drops in a way that masks cannot be placed on.
    """

    def __init__(self, seed: int, passes: int, masks: Masks = "systematic", unbatched: Collection[int] = ()) -> None:
        super().__init__()
        self._unbatched = frozenset(unbatched)
        self.seed = seed
        self.passes = passes
        self.masks = masks
        self._pass = 0
        self._site = 0
        self._hashes: dict[tuple[int, int], torch.Tensor] = {}
        self._observe: Callable[[int, float, torch.Tensor], None] | None = None

    def start(self, mc_pass: int) -> None:
        """Begin a forward run under the masks of pass ``mc_pass``."""
        self._pass = mc_pass
        self._site = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.dropout:
            return self._dropout(*args, **kwargs)
        if func in _OTHER_DROPOUTS:
            raise AmalgamError(f"the model uses {func.__name__}, on which dropout masks cannot be placed")
        if func is F.scaled_dot_product_attention and _attention_dropout(args, kwargs) > 0:
            raise AmalgamError("the model drops attention inside a fused kernel; load it with eager attention")
        return func(*args, **kwargs)

    def _dropout(
        self, values: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> torch.Tensor:
        site = self._site
        self._site += 1
        if not training or p == 0.0:
            return values
        if self._observe is not None:
            self._observe(site, p, values)
        if p >= 1.0:
            return torch.zeros_like(values)
        keep = keep_mask(self._site_hashes(site, values), p, *self._schedule())
        return values * (keep.to(values.dtype) / (1.0 - p))

    def _schedule(self) -> tuple[int, int]:
        return (self._pass, self.passes) if self.masks == "systematic" else (0, 1)

    def _site_hashes(self, site: int, values: torch.Tensor) -> torch.Tensor:
        """Hashes of a site cut to the shape of ``values`` less its batch axis; grown when longer texts come."""
        shape = tuple(values.shape if site in self._unbatched else values.shape[1:])
        drawn = self._pass if self.masks == "independent" else 0
        hashes = self._hashes.get((site, drawn))
        if hashes is None or any(have < want for have, want in zip(hashes.shape, shape, strict=True)):
            have = hashes.shape if hashes is not None else (0,) * len(shape)
            grown = [max(pair) for pair in zip(have, shape, strict=True)]
            # An independent mask is that of a site of its own, out of reach of any real site's number.
            hashes = unit_hashes(self.seed, site + (drawn << 16), grown).to(values.device)
            if self.masks == "systematic":
                self._hashes[site, drawn] = hashes
        return hashes[tuple(slice(size) for size in shape)]


_OTHER_DROPOUTS = frozenset(
    {F.alpha_dropout, F.feature_alpha_dropout, F.dropout1d, F.dropout2d, F.dropout3d, torch.bernoulli}
)


def _attention_dropout(args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
    """The dropout probability of a call scaled_dot_product_attention(query, key, value, mask, dropout_p, …)."""
    return float(args[4] if len(args) > 4 else kwargs.get("dropout_p", 0.0))


_Seen = tuple[int, str, float, tuple[int, ...]]


def find_sites(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> tuple[DropoutSite, ...]:
    """Run the model on the inputs, and on the inputs twice over, and list its live dropouts (p > 0).

    An axis is the batch if it doubles with the inputs.
    """
    once = _observe(model, inputs)
    twice = _observe(model, {name: torch.cat([tensor, tensor]) for name, tensor in inputs.items()})
    sites = []
    for (number, module, p, shape), (*_, doubled) in zip(once, twice, strict=True):
        batched = shape != doubled
        sites.append(DropoutSite(number, module, p, batched, shape[1:] if batched else shape))
    return tuple(sites)


def _observe(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> list[_Seen]:
    """Number, calling module, p and shape of each live dropout in one forward run."""
    mode = LiveDropout(seed=0, passes=1)
    seen: list[_Seen] = []
    was_training = model.training
    with _ModuleStack(model) as stack, torch.inference_mode(), mode:
        mode._observe = lambda site, p, values: seen.append((site, stack.innermost, p, tuple(values.shape)))
        mode.start(0)
        model.train()
        try:
            model(**inputs)
        finally:
            model.train(was_training)
    return seen


class _ModuleStack:
    """Names of the modules that are running, innermost last."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._names: list[str] = []
        self._handles: list[Any] = []
        self._model = model

    @property
    def innermost(self) -> str:
        return self._names[-1] if self._names else ""

    def __enter__(self) -> _ModuleStack:
        for name, module in self._model.named_modules():
            self._handles += [
                module.register_forward_pre_hook(lambda *_, name=name: self._names.append(name)),
                module.register_forward_hook(lambda *_: self._pop(), always_call=True),
            ]
        return self

    def _pop(self) -> None:
        self._names.pop()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
