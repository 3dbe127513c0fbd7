"""The models of a bundle with one head changed, and the proof that all other heads answer as before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from tokenizers import Tokenizer

from amalgam_edge.errors import AmalgamError
from amalgam_edge.exporters.rewrites.head_outputs import (
    HeadLayer,
    drop_head,
    hidden_state,
    put_head,
    with_probabilities,
)
from amalgam_edge.heads import Head, Heads
from amalgam_edge.runtime.text_model import TextModel

BATCH_SIZES = (1, 8, 32)
_MADE_UP_TEXTS, _LONGEST_MADE_UP = 100, 40  # tokens

GraphChange = Callable[[onnx.GraphProto], None]


@dataclass(frozen=True)
class HeadOrder:
    """The heads of a bundle before one of them was changed and after.

    Attributes:
        before: The heads that there were.
        after: The heads that there are.
        changed: The name of the head that was changed.
    """

    before: Heads
    after: Heads
    changed: str

    @classmethod
    def putting(cls, before: Heads, head: Head) -> HeadOrder:
        """The head takes the place of the one with its name, or comes behind all."""
        names = before.names
        after = [head if other.name == head.name else other for other in before]
        return cls(before, Heads(tuple(after if head.name in names else [*after, head])), head.name)

    @classmethod
    def dropping(cls, before: Heads, name: str) -> HeadOrder:
        """All heads but the one of this name."""
        return cls(before, Heads(tuple(head for head in before if head.name != name)), name)

    @property
    def position(self) -> int:
        """Where the changed head was, or is where it was not there before."""
        names = self.before.names
        return names.index(self.changed) if self.changed in names else len(names)

    def kept_columns(self) -> tuple[np.ndarray, np.ndarray]:
        """The positions of the other heads' labels among all logits, before and after."""
        kept = [name for name in self.before.names if name != self.changed]
        before, after = (
            np.concatenate([np.arange(len(heads.labels))[heads.columns(name)] for name in kept] or [np.arange(0)])
            for heads in (self.before, self.after)
        )
        return before, after


def change_model(content: bytes, order: HeadOrder, layer: HeadLayer | None, hidden_name: str = "") -> bytes:
    """An ONNX model with one head put, or dropped where there is no layer.

    Args:
        content: The model as it was.
        order: The heads before and after.
        layer: The layer of the new head, on the hidden states of the float model.
        hidden_name: What the float model calls its hidden state; empty for a model that is none of its quantized forms.

    Raises:
        AmalgamError: The model is of another form than this project writes.
    """
    model = onnx.load_model_from_string(content)
    graph = model.graph
    with_probabilities(graph, order.before)
    if layer is None:
        drop_head(graph, order.before, order.changed)
    else:
        hidden = hidden_state(graph, order.before, hidden_name)
        put_head(graph, order.before, order.after[order.changed], layer, hidden, order.position)
    return model.SerializeToString()


def largest_difference(before: TextModel, after: TextModel, texts: Sequence[str], order: HeadOrder) -> float:
    """The largest difference of any logit of the heads that stay; 0 only if all are equal to the bit.

    Args:
        before: The model before the change.
        after: The same model with one head changed.
        texts: Texts, which both answer in batches of several sizes.
        order: The heads before and after.
    """
    old, new = order.kept_columns()
    largest = 0.0
    for batch_size in BATCH_SIZES:
        was = np.ascontiguousarray(before.run(texts, batch_size=batch_size)[0][:, old])
        now = np.ascontiguousarray(after.run(texts, batch_size=batch_size)[0][:, new])
        if was.tobytes() != now.tobytes():
            with np.errstate(invalid="ignore"):
                difference = np.abs(was.astype(np.float64) - now)
            smallest = float(np.finfo(np.float32).tiny)  # of two zeros or NaNs that differ in their bits
            largest = max(largest, smallest, float(np.nan_to_num(difference, nan=np.inf).max()))
    return largest


def require_equal(name: str, difference: float) -> None:
    """Refuse a model whose other heads answer otherwise than before.

    Raises:
        AmalgamError: The difference is not 0.
    """
    if difference != 0.0:
        raise AmalgamError(
            f"{name}: the other heads' logits would change, by up to {difference:.2g}, so the bundle stays as it was; "
            "please report this model"
        )


def texts_of_vocabulary(tokenizer: bytes) -> list[str]:
    """Made-up texts of all lengths from a tokenizer's vocabulary: enough to compare two models with each other.

    Args:
        tokenizer: The content of a tokenizer.json.
    """
    loaded = Tokenizer.from_str(tokenizer.decode())
    n_tokens = loaded.get_vocab_size()
    positions = np.random.default_rng(0).integers(n_tokens, size=(_MADE_UP_TEXTS, _LONGEST_MADE_UP))
    lengths = 1 + np.arange(_MADE_UP_TEXTS) % _LONGEST_MADE_UP
    return [loaded.decode(row[:length].tolist()) for row, length in zip(positions, lengths, strict=True)]
