"""Where a model drops values, and how its dropouts are given the masks of :mod:`amalgam_edge.dropout.masks`.

A site is one call of dropout within a forward run. Sites are numbered in order of execution, so a layer that runs
several times (ALBERT shares one layer's weights) has a site for each run. Calls are intercepted by a
``TorchFunctionMode``, so models need no change.

A pass has one mask for each site, and all texts of a batch share it. Each text still sees independent Bernoulli masks
over its own units, and its scores do not depend on the batch that it runs in.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from amalgam_edge.dropout.masks import DropoutPass, Masks, UnitHashes, site_word, unit_hashes
from amalgam_edge.errors import AmalgamError


@dataclass(frozen=True)
class DropoutSite:
    """One call of dropout in a forward run.

    Attributes:
        number: Position in the order of execution, from zero; sites with p = 0 are counted too.
        module: Name of the module that calls dropout.
        p: Probability that a unit is dropped.
        batched: Whether the first axis is the batch (DeBERTa's table of relative positions has no batch).
        shape: Shape, without the batch, of the values that dropout was called on when the site was found.
    """

    number: int
    module: str
    p: float
    batched: bool
    shape: tuple[int, ...]


def unbatched_sites(sites: Iterable[DropoutSite]) -> frozenset[int]:
    """The numbers of the sites whose first axis is not the batch."""
    return frozenset(site.number for site in sites if not site.batched)


class DropoutInterceptor(TorchFunctionMode):
    """A context in which every call of dropout goes to :meth:`drop`, with the number of its site.

    Sites with p = 0 leave their input alone but keep their number.

    Raises:
        AmalgamError: In a forward run, if the model drops in a way that masks cannot be applied to.
    """

    def __init__(self) -> None:
        super().__init__()
        self._site = 0

    def begin(self) -> None:
        """Begin a forward run: number the sites from zero again."""
        self._site = 0

    def drop(self, site: int, p: float, values: torch.Tensor) -> torch.Tensor:
        """Drop units of ``values`` with probability ``p``."""
        raise NotImplementedError

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (F.dropout, torch.dropout):
            return self._dropout(*args, **kwargs)
        if func in _OTHER_DROPOUTS:
            raise AmalgamError(f"the model uses {func.__name__}, to which dropout masks cannot be applied")
        if func is F.scaled_dot_product_attention and _attention_dropout(args, kwargs) > 0:
            raise AmalgamError("the model drops attention inside a fused kernel; load it with eager attention")
        return func(*args, **kwargs)

    def _dropout(
        self,
        input: torch.Tensor,  # noqa: A002  (its name in torch)
        p: float = 0.5,
        training: bool = True,
        inplace: bool = False,
        *,
        train: bool = True,
    ) -> torch.Tensor:
        """``torch.nn.functional.dropout``, and ``torch.dropout``, which calls its last argument ``train``."""
        site = self._site
        self._site += 1
        return self.drop(site, p, input) if training and train and p > 0.0 else input


class LiveDropout(DropoutInterceptor):
    """Applies the masks of one pass, chosen with :meth:`start`, to a model in training mode.

    Args:
        seed: Seed of the masks, from 0 to 2**31 - 1.
        passes: K, the number of passes over which systematic masks are balanced.
        masks: ``systematic`` (balanced over K passes) or ``independent`` (new in each pass).
        device: Device of the model.
        unbatched: Numbers of the sites whose first axis is not the batch; see :func:`unbatched_sites`.
    """

    def __init__(
        self,
        seed: int,
        passes: int,
        masks: Masks = "systematic",
        *,
        device: torch.device | None = None,
        unbatched: Collection[int] = (),
    ) -> None:
        super().__init__()
        self._seed = torch.tensor(seed, dtype=torch.int32, device=device)
        self._passes = passes
        self._masks = masks
        self._unbatched = frozenset(unbatched)
        self._round_number = -1
        self._hashes: dict[int, UnitHashes] = {}  # by site, in this round

    def start(self, mc_pass: int) -> None:
        """Begin a forward run under the masks of pass ``mc_pass``."""
        self._pass = DropoutPass(mc_pass, self._passes, self._masks)
        if self._pass.round_number != self._round_number:
            self._round_number = self._pass.round_number
            self._hashes.clear()
        self.begin()

    def drop(self, site: int, p: float, values: torch.Tensor) -> torch.Tensor:
        """Multiply ``values`` by the mask of the site in this pass."""
        shape = tuple(values.shape if site in self._unbatched else values.shape[1:])
        return values * self._pass.mask(self._unit_hashes(site, shape), p).to(values.dtype)

    def _unit_hashes(self, site: int, shape: tuple[int, ...]) -> UnitHashes:
        """Hashes of a site's units, kept for the round and extended when longer texts come."""
        kept = self._hashes.get(site)
        kept_shape = tuple(kept.hashes.shape) if kept else (0,) * len(shape)
        sizes = list(zip(kept_shape, shape, strict=True))
        if kept is None or any(kept_size < size for kept_size, size in sizes):
            word = site_word(self._seed, site, self._round_number)
            kept = self._hashes[site] = unit_hashes(word, [max(pair) for pair in sizes])
        return kept.crop(shape)


_OTHER_DROPOUTS = frozenset(
    {
        F.alpha_dropout,
        F.feature_alpha_dropout,
        F.dropout1d,
        F.dropout2d,
        F.dropout3d,
        torch.dropout_,
        torch.native_dropout,
        torch.bernoulli,
        torch.Tensor.bernoulli,
        torch.Tensor.bernoulli_,
    }
)


def _attention_dropout(args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
    """The dropout probability in a call ``scaled_dot_product_attention(query, key, value, mask, dropout_p, …)``."""
    return float(args[4] if len(args) > 4 else kwargs.get("dropout_p", 0.0))


class _DropoutCall(NamedTuple):
    """A call of dropout as it was observed; the shape includes the batch."""

    site: int
    module: str
    p: float
    shape: tuple[int, ...]


class _DropoutRecorder(DropoutInterceptor):
    """Drops nothing, and records every call."""

    def __init__(self, stack: _ModuleStack) -> None:
        super().__init__()
        self.calls: list[_DropoutCall] = []
        self._stack = stack

    def drop(self, site: int, p: float, values: torch.Tensor) -> torch.Tensor:
        self.calls.append(_DropoutCall(site, self._stack.innermost, p, tuple(values.shape)))
        return values


def find_sites(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> tuple[DropoutSite, ...]:
    """Find the live dropouts (p > 0) of a model, in order of execution.

    The model is run on the inputs, and on a batch that holds them twice: a site's first axis is the batch if its size
    doubles.

    Args:
        model: Model in any mode; it is left in the mode that it was in.
        inputs: Arguments of the model by name, each with the batch as its first axis.
    """
    calls = _record_dropout(model, inputs)
    doubled_calls = _record_dropout(model, {name: torch.cat([tensor, tensor]) for name, tensor in inputs.items()})
    sites = []
    for call, doubled in zip(calls, doubled_calls, strict=True):
        batched = call.shape != doubled.shape
        shape = call.shape[1:] if batched else call.shape
        sites.append(DropoutSite(call.site, call.module, call.p, batched, shape))
    return tuple(sites)


def _record_dropout(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> list[_DropoutCall]:
    """The calls of live dropout in one forward run."""
    with (
        _ModuleStack(model) as stack,
        torch.inference_mode(),
        _DropoutRecorder(stack) as recorder,
        training_mode(model),
    ):
        model(**inputs)
    return recorder.calls


@contextmanager
def training_mode(model: torch.nn.Module) -> Iterator[None]:
    """Switch a model's dropouts on, and afterwards back to what they were."""
    was_training = model.training
    model.train()
    try:
        yield
    finally:
        model.train(was_training)


class _ModuleStack:
    """The names of the modules whose ``forward`` is running, innermost last."""

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
