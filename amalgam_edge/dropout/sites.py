"""Monte-Carlo dropout with masks that are the project's own: where a model drops, and which pass it is in.

A site is one call of dropout within a forward run, numbered in order of execution, so that a layer that runs many
times (ALBERT) has a site for each run. A pass has one mask per site, shared by all the texts of a batch: each text
still sees independent Bernoulli masks over its own units, and its score no longer depends on its batch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from amalgam_edge.dropout.masks import DropoutPass, Masks, UnitHashes, site_word, unit_hashes
from amalgam_edge.errors import AmalgamError


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


def unbatched_sites(sites: Iterable[DropoutSite]) -> frozenset[int]:
    """Numbers of the sites whose first axis is not the batch."""
    return frozenset(site.number for site in sites if not site.batched)


class EveryDropout(TorchFunctionMode):
    """While entered, every dropout of a model is handed to :meth:`place` with the number of its site.

    Sites with p = 0 leave their input alone but keep their number.

    Raises:
        AmalgamError: in a forward run, where the model drops in a way that masks cannot be placed on.
    """

    def __init__(self) -> None:
        super().__init__()
        self._site = 0

    def begin(self) -> None:
        """Number the sites from zero again: a forward run begins."""
        self._site = 0

    def place(self, site: int, p: float, values: torch.Tensor) -> torch.Tensor:
        """Drop from ``values`` with probability ``p``."""
        raise NotImplementedError

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (F.dropout, torch.dropout):
            return self._dropout(*args, **kwargs)
        if func in _OTHER_DROPOUTS:
            raise AmalgamError(f"the model uses {func.__name__}, on which dropout masks cannot be placed")
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
        return self.place(site, p, input) if training and train and p > 0.0 else input


class LiveDropout(EveryDropout):
    """Applies the masks of the pass chosen with :meth:`start` to a model in training mode.

    Args:
        seed: of the masks, from 0 to 2**31 - 1.
        passes: K, the length of a round, over which systematic masks are balanced.
        masks: ``systematic`` (balanced over passes) or ``independent`` (drawn anew for each).
        device: of the model.
        unbatched: numbers of the sites whose first axis is not the batch; see :func:`find_sites`.
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
        self._round = -1
        self._drawn: dict[int, UnitHashes] = {}

    def start(self, mc_pass: int) -> None:
        """Begin a forward run under the masks of pass ``mc_pass``."""
        self._pass = DropoutPass(mc_pass, self._passes, self._masks)
        if self._pass.number_of_round != self._round:
            self._round = self._pass.number_of_round
            self._drawn.clear()
        self.begin()

    def place(self, site: int, p: float, values: torch.Tensor) -> torch.Tensor:
        """Multiply with the site's mask in this pass."""
        shape = tuple(values.shape if site in self._unbatched else values.shape[1:])
        return values * self._pass.mask(self._draw(site, shape), p).to(values.dtype)

    def _draw(self, site: int, shape: tuple[int, ...]) -> UnitHashes:
        """What is drawn for a site of a shape; kept for the round, and grown when longer texts come."""
        drawn = self._drawn.get(site)
        have = tuple(drawn.hashes.shape) if drawn else (0,) * len(shape)
        if drawn is None or any(there < wanted for there, wanted in zip(have, shape, strict=True)):
            word = site_word(self._seed, site, self._round)
            drawn = self._drawn[site] = unit_hashes(word, [max(pair) for pair in zip(have, shape, strict=True)])
        return drawn.cut(shape)


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
    """The dropout probability of a call scaled_dot_product_attention(query, key, value, mask, dropout_p, …)."""
    return float(args[4] if len(args) > 4 else kwargs.get("dropout_p", 0.0))


_Seen = tuple[int, str, float, tuple[int, ...]]


class _Observer(EveryDropout):
    """Drops nothing and notes where it could have."""

    def __init__(self, stack: _ModuleStack) -> None:
        super().__init__()
        self.seen: list[_Seen] = []
        self._stack = stack

    def place(self, site: int, p: float, values: torch.Tensor) -> torch.Tensor:
        self.seen.append((site, self._stack.innermost, p, tuple(values.shape)))
        return values


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
    with _ModuleStack(model) as stack, torch.inference_mode(), _Observer(stack) as observer, training_mode(model):
        model(**inputs)
    return observer.seen


@contextmanager
def training_mode(model: torch.nn.Module) -> Iterator[None]:
    """A model whose dropouts are on, and afterwards as they were."""
    was_training = model.training
    model.train()
    try:
        yield
    finally:
        model.train(was_training)


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
