"""Remembers the tokens of words, for tokenizers that split at spaces first."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from amalgam_edge.runtime.text_prefixes import character_groups, readable_parts, without_lone_surrogates

_GENERATION_BYTES = 8_000_000  # of a generation of words, of which there are two
_LONGEST_WORD = 48  # characters of the words that are remembered
_PIECES = 8192  # parts of words, between punctuation marks, that are remembered
_BYTES_PER_WORD = 130  # of a dictionary for a word and its number, besides the word itself

# Normalizers that look at one character at a time, or at a character and the combining marks that follow it.
_LOCAL_NORMALIZERS = frozenset({"BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "StripAccents"})
_SPLITS_AT_SPACES = frozenset({"BertPreTokenizer", "Whitespace", "WhitespaceSplit"})


class WordTokens(NamedTuple):
    """The token ids of several words.

    Attributes:
        starts: Position of each word's first token in ``ids``, ``(n_words,)`` of int64.
        lengths: Number of tokens of each word, ``(n_words,)`` of int64.
        ids: Token ids of all words, ``(n_tokens,)`` of int64.
    """

    starts: np.ndarray
    lengths: np.ndarray
    ids: np.ndarray

    @classmethod
    def of(cls, words: Sequence[Sequence[int]]) -> WordTokens:
        """The tokens of words, from the ids of each."""
        ids, lengths = flatten(words)
        return cls(np.cumsum(lengths) - lengths, lengths, ids)

    def followed_by(self, other: WordTokens) -> WordTokens:
        """The tokens of these words, and then of others."""
        starts = np.concatenate([self.starts, other.starts + len(self.ids)])
        return WordTokens(starts, np.concatenate([self.lengths, other.lengths]), np.concatenate([self.ids, other.ids]))

    @property
    def n_bytes(self) -> int:
        """Memory of the arrays."""
        return sum(array.nbytes for array in self)

    def ids_of(self, number: int) -> list[int]:
        """Token ids of the word at a position."""
        start = self.starts[number]
        return self.ids[start : start + self.lengths[number]].tolist()

    def take(self, numbers: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Token ids of the words at some positions, one word after another ``(n_tokens,)``, and how many each has."""
        lengths = self.lengths[numbers]
        return self.ids[ranges(self.starts[numbers], lengths)], lengths


@dataclass
class _Generation:
    """Words with their tokens.

    Attributes:
        numbers: Word → its position in ``tokens``.
        tokens: The tokens of the words.
        word_bytes: Memory of the words and their numbers.
    """

    numbers: dict[str, int] = field(default_factory=dict)
    tokens: WordTokens = field(default_factory=lambda: WordTokens.of([]))
    word_bytes: int = 0

    @property
    def n_bytes(self) -> int:
        """Memory of the words and their tokens."""
        return self.word_bytes + self.tokens.n_bytes

    def add(self, words: Sequence[str], word_bytes: int, tokens: WordTokens) -> None:
        """Add words, and the memory that they take; ``tokens`` are those of all words, the old and the new ones."""
        self.numbers.update(zip(words, range(len(self.numbers), len(self.numbers) + len(words)), strict=True))
        self.tokens = tokens
        self.word_bytes += word_bytes


class WordCache:
    """Token ids of the words that have come lately. Safe to call from several threads at once.

    New words come into the recent generation. Once that holds 8 MB it becomes the older one, and the one that was older
    is forgotten, except for its words that were met again meanwhile. Long words, which hardly come twice, are not
    remembered.

    Args:
        tokenizer: A tokenizer that splits at spaces. It cuts texts to as many tokens as are needed of a word.
        n_characters: Longer words are read only as far as that takes; see :func:`readable_parts`.
    """

    def __init__(self, tokenizer: Tokenizer, n_characters: int) -> None:
        self._tokenizer = tokenizer
        self._n_characters = n_characters
        self._ascii = _AsciiWordTokenizer(tokenizer)
        self._lock = Lock()
        self._recent = _Generation()
        self._older = _Generation()

    @property
    def n_bytes(self) -> int:
        """Memory of the words that are remembered."""
        return self._recent.n_bytes + self._older.n_bytes

    def look_up(self, words: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The words' token ids, one word after another ``(n_tokens,)``, and the tokens of each word ``(n_words,)``."""
        with self._lock:
            recent, older, known = self._recent, self._older, self._recent.tokens
            try:
                numbers = list(map(recent.numbers.__getitem__, words))
                new = []
            except KeyError:
                new = list({word: None for word in words if word not in recent.numbers})
        if not new:
            return known.take(numbers)
        long_words = [word for word in new if len(word) > _LONGEST_WORD] if max(map(len, new)) > _LONGEST_WORD else []
        if long_words:
            new = [word for word in new if len(word) <= _LONGEST_WORD]
        new_tokens = WordTokens.of(self._encode(new, older))
        tokens = known.followed_by(new_tokens)
        with self._lock:
            if recent.tokens is known:  # else another thread was faster, and these words are added when they come again
                self._remember(new, new_tokens, tokens)
            if recent.tokens is tokens and not long_words:
                numbers = list(map(recent.numbers.__getitem__, words))
                return tokens.take(numbers)
        new_numbers = dict(
            zip(
                [*new, *long_words],
                range(len(known.lengths), len(known.lengths) + len(new) + len(long_words)),
                strict=True,
            )
        )
        numbers = [new_numbers[word] if word in new_numbers else recent.numbers[word] for word in words]
        if long_words:
            tokens = tokens.followed_by(WordTokens.of(self._tokenize(long_words)))
        return tokens.take(numbers)

    def _remember(self, words: Sequence[str], new_tokens: WordTokens, all_tokens: WordTokens) -> None:
        """Add words to the recent generation, or, once that has grown too large, to the next one."""
        word_bytes = sum(map(sys.getsizeof, words)) + _BYTES_PER_WORD * len(words)
        n_bytes = word_bytes + new_tokens.n_bytes
        if self._recent.n_bytes + n_bytes <= _GENERATION_BYTES:
            self._recent.add(words, word_bytes, all_tokens)
            return
        self._older, self._recent = self._recent, _Generation()
        if n_bytes <= _GENERATION_BYTES:
            self._recent.add(words, word_bytes, new_tokens)

    def _encode(self, words: Sequence[str], older: _Generation) -> list[Sequence[int]]:
        """The token ids of each word, be it in the older generation or new."""
        if not older.numbers:
            return self._tokenize(words)
        tokenized = iter(self._tokenize([word for word in words if word not in older.numbers]))
        return [
            older.tokens.ids_of(older.numbers[word]) if word in older.numbers else next(tokenized) for word in words
        ]

    def _tokenize(self, words: Sequence[str]) -> list[Sequence[int]]:
        """The token ids of each word: as many as are needed of it."""
        parts = readable_parts(self._tokenizer, words, self._n_characters)
        supported = self._ascii.supports(parts)
        others = [part for part, is_supported in zip(parts, supported, strict=True) if not is_supported]
        ids_of_others = self._tokenize_by_library(others)
        return [
            self._ascii.ids(part) if is_supported else next(ids_of_others)
            for part, is_supported in zip(parts, supported, strict=True)
        ]

    def _tokenize_by_library(self, words: Sequence[str]) -> Iterator[Sequence[int]]:
        for group in character_groups(words):
            for encoding in self._tokenizer.encode_batch_fast(without_lone_surrogates(group), add_special_tokens=False):
                yield encoding.ids


class _AsciiWordTokenizer:
    """Tokenizes ASCII words for BERT's tokenizer, which splits them at each punctuation mark and nowhere else.

    The ``tokenizers`` library takes ten times as long to normalize and split a word as to find its pieces.
    """

    _WORD = re.compile(r"[!-~]+")
    _PIECE = re.compile(r"[0-9A-Za-z]+|[!-~]")

    def __init__(self, tokenizer: Tokenizer) -> None:
        normalizers, pre_tokenizers = _steps(tokenizer.normalizer), _steps(tokenizer.pre_tokenizer)
        types = [step["type"] for step in (*normalizers, *pre_tokenizers)]
        self._is_bert = types == ["BertNormalizer", "BertPreTokenizer"]
        self._lowercase = self._is_bert and normalizers[0]["lowercase"]
        self._added_token = re.compile("|".join(map(re.escape, _added_tokens(tokenizer))) or r"(?!)", re.IGNORECASE)
        self._model = tokenizer.model
        self._remembered_piece_ids = lru_cache(maxsize=_PIECES)(self._piece_ids)

    def supports(self, words: Sequence[str]) -> list[bool]:
        """Whether each word can be tokenized here: all ASCII, and without any of the tokenizer's added tokens."""
        return [
            self._is_bert and bool(self._WORD.fullmatch(word)) and not self._added_token.search(word) for word in words
        ]

    def ids(self, word: str) -> list[int]:
        """The token ids of a supported word."""
        find_ids = self._remembered_piece_ids if len(word) <= _LONGEST_WORD else self._piece_ids
        ids: list[int] = []
        for piece in self._PIECE.findall(word.lower() if self._lowercase else word):
            ids += find_ids(piece)
        return ids

    def _piece_ids(self, piece: str) -> list[int]:
        return [token.id for token in self._model.tokenize(piece)]


def splits_at_spaces(tokenizer: Tokenizer) -> bool:
    """Whether a text's tokens are those of its words one after another, words being the parts between spaces."""
    normalizers, pre_tokenizers = _steps(tokenizer.normalizer), _steps(tokenizer.pre_tokenizer)
    return (
        all(step["type"] in _LOCAL_NORMALIZERS for step in normalizers)
        and bool(pre_tokenizers)
        and pre_tokenizers[0]["type"] in _SPLITS_AT_SPACES
        and not getattr(tokenizer.model, "dropout", None)
        and not any(" " in token for token in _added_tokens(tokenizer))
    )


def flatten(ids: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """All ids in one array ``(n_tokens,)``, and the number of ids of each text ``(n_texts,)``."""
    return np.fromiter(chain.from_iterable(ids), np.int64), np.fromiter(map(len, ids), np.int64, len(ids))


def ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """``range(start, start + length)`` for each start and length, all in one array."""
    ends = np.cumsum(lengths)
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(ends[-1] if len(ends) else 0)


def _steps(part: Any) -> list[dict[str, Any]]:
    """The steps of a normalizer or pre-tokenizer in order, nested sequences flattened, as in tokenizer.json."""
    waiting = [] if part is None else [json.loads(part.__getstate__())]
    steps = []
    while waiting:
        step = waiting.pop(0)
        waiting[:0] = step.get("normalizers") or step.get("pretokenizers") or []
        if step["type"] != "Sequence":
            steps.append(step)
    return steps


def _added_tokens(tokenizer: Tokenizer) -> list[str]:
    """The texts that the tokenizer takes for added tokens: as they were added, and as its normalizer changes them."""
    added = tokenizer.get_added_tokens_decoder().values()
    normalizer = tokenizer.normalizer
    if normalizer is None:
        return [token.content for token in added]
    changed = (normalizer.normalize_str(token.content) for token in added if token.normalized)
    return list(dict.fromkeys([*(token.content for token in added), *changed]))
