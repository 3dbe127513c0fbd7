"""A teacher's hidden states of a corpus: computed once with dropout off, and kept in memory-mapped files."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from amalgam_edge.corpus import Corpus
from amalgam_edge.errors import AmalgamError
from amalgam_edge.inference.batches import CPU_BATCH_TOKENS, encode
from amalgam_edge.inference.devices import resolve_device
from amalgam_edge.inference.vectors import text_vectors
from amalgam_edge.models.hidden_state import capture_hidden_state
from amalgam_edge.models.teacher import Teacher
from amalgam_edge.progress import Advance
from amalgam_edge.scoring.scores_manifest import ScoreKey
from amalgam_edge.scoring.shards import ShardStore

_LARGEST_HALF = np.finfo(np.float16).max


class HiddenStates:
    """One row for each text, ``(width,)`` of float16 or float32, read from disk when it is asked for.

    Attributes:
        shards: Arrays of rows, each with ``shard_size`` rows but the last.
        shard_size: Number of rows in a shard.
    """

    def __init__(self, shards: Sequence[np.ndarray], shard_size: int) -> None:
        self.shards = shards
        self.shard_size = shard_size

    @classmethod
    def mapped(cls, files: Iterable[Path], shard_size: int) -> HiddenStates:
        """The hidden states in ``.npy`` files, which are mapped into memory."""
        return cls([np.load(file, mmap_mode="r") for file in files], shard_size)

    @property
    def files(self) -> list[Path]:
        """The files that the shards are mapped from; none for shards that are not mapped."""
        return [Path(str(shard.filename)).absolute() for shard in self.shards if isinstance(shard, np.memmap)]

    def __len__(self) -> int:
        return sum(len(shard) for shard in self.shards)

    def __getitem__(self, row: int) -> np.ndarray:
        return self.shards[row // self.shard_size][row % self.shard_size]

    def array(self) -> np.ndarray:
        """All rows in memory, ``(n_texts, width)`` of float32."""
        return np.concatenate(self.shards).astype(np.float32)


class HiddenStore(ShardStore):
    """The hidden states of one teacher over one corpus, as ``.npy``; float16 unless a shard's values are too large."""

    suffix = "npy"
    contents = "hidden states"
    remedy = "build again"

    def write(self, shard: int, states: np.ndarray) -> None:
        """Add a shard, ``(n_texts, width)``.

        Raises:
            AmalgamError: The disk is full, or writing is not permitted.
        """
        fits_half = bool((np.abs(states) <= _LARGEST_HALF).all())
        content = io.BytesIO()
        np.save(content, states.astype(np.float16) if fits_half else states)
        self._put(shard, content.getvalue())

    def read(self) -> HiddenStates:
        """All hidden states, in the order of the corpus.

        Raises:
            AmalgamError: Shards are missing or cannot be read.
        """
        self._require_all()
        return HiddenStates([self._mapped(shard) for shard in range(self.n_shards)], self.shard_size)

    def _mapped(self, shard: int) -> np.ndarray:
        try:
            states = np.load(self.path(shard), mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise self._damaged(shard) from error
        if states.ndim != 2 or len(states) != len(self.rows(shard)):
            raise self._damaged(shard)
        return states

    def _check(self, shard: int) -> None:
        self._mapped(shard)


def hidden_key(teacher: Teacher, corpus: Corpus) -> ScoreKey:
    """The key of a teacher's hidden states: all that they depend on."""
    return ScoreKey(
        teacher=teacher.name,
        teacher_fingerprint=teacher.fingerprint,
        corpus_fingerprint=corpus.fingerprint,
        n_texts=len(corpus),
        settings={"max_length": teacher.max_length},
    )


def store_hidden(
    teacher: Teacher, store: HiddenStore, corpus: Corpus, advance: Advance, *, device: str, batch_tokens: int
) -> None:
    """Compute the shards of hidden states that a store lacks.

    Args:
        teacher: The teacher; afterwards it is on the CPU.
        store: Store of the teacher's hidden states.
        corpus: The texts.
        advance: Is called with numbers of finished texts, including those that the store holds already.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        batch_tokens: Largest number of tokens that run together.

    Raises:
        AmalgamError: The teacher's architecture has no hidden state of a whole text, or the store belongs to another
            run or cannot be written to.
    """
    teacher.model.to(resolve_device(device))
    fill(store, corpus, lambda texts: hidden_states(teacher, texts, batch_tokens), advance)
    teacher.model.to("cpu")


def fill(
    store: HiddenStore, corpus: Corpus, states_of: Callable[[Sequence[str]], np.ndarray], advance: Advance
) -> None:
    """Compute the shards that a store lacks.

    Args:
        store: The store.
        corpus: The texts.
        states_of: Function from texts to their vectors, ``(n_texts, width)``.
        advance: Is called with numbers of finished texts, including those that the store holds already.

    Raises:
        AmalgamError: The store belongs to another run or cannot be written to.
    """
    store.open()
    missing = store.missing()
    advance(len(corpus) - sum(len(store.rows(shard)) for shard in missing))
    for shard in missing:
        rows = store.rows(shard)
        store.write(shard, states_of(corpus.texts[rows.start : rows.stop]))
        advance(len(rows))


def hidden_states(teacher: Teacher, texts: Sequence[str], batch_tokens: int = CPU_BATCH_TOKENS) -> np.ndarray:
    """Hidden states with dropout off, ``(n_texts, width)`` of float32, in the order of ``texts``.

    Raises:
        AmalgamError: The teacher's architecture has no hidden state of a whole text, or a hidden state is not finite.
    """
    encoded = encode(texts, teacher.tokenizer, teacher.max_length)
    pad = teacher.tokenizer.pad_token_id
    with capture_hidden_state(teacher.model) as latest:
        states = text_vectors(
            teacher.model, encoded, lambda output, mask: latest(), pad_token_id=pad, batch_tokens=batch_tokens
        )
    if not np.isfinite(states).all():
        raise AmalgamError(f"teacher '{teacher.name}': hidden states that are not finite; its weights are damaged")
    return states
