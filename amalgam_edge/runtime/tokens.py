"""Tokenizes many texts at once, with a cache of words.

Tokenizers like BERT's split at spaces first, so that a text's tokens are those of its words, one word after another.
Most words of a text have come before: their tokens are looked up in a cache, and the ``tokenizers`` library tokenizes
the new words only, which makes this some twenty times as fast. Other tokenizers get whole texts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from threading import Lock
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from amalgam_edge.errors import AmalgamError
from amalgam_edge.storage.own_files import FileContent

_BYTES_PER_WORD = 500  # memory of a cached word and its pieces, besides the word's characters
_CACHE_BYTES = 16_000_000  # a cache that has grown larger is emptied

# Normalizers that look at one character at a time, or at a character and the combining marks that follow it.
_LOCAL_NORMALIZERS = frozenset({"BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "StripAccents"})
_SPLITS_AT_SPACES = frozenset({"BertPreTokenizer", "Whitespace", "WhitespaceSplit"})


@dataclass(frozen=True)
class TokenIds:
    """Several texts as token ids.

    Attributes:
        ids: Token ids of all texts, one text after another, ``(n_tokens,)`` of int64.
        lengths: Number of tokens of each text, ``(n_texts,)``.
        truncated: Whether a text was cut to the longest input, ``(n_texts,)`` of bool.
    """

    ids: np.ndarray
    lengths: np.ndarray
    truncated: np.ndarray

    @cached_property
    def starts(self) -> np.ndarray:
        """Position of each text's first token in ``ids``, ``(n_texts,)``."""
        return np.cumsum(self.lengths) - self.lengths

    def padded(self, rows: np.ndarray, pad_token_id: int) -> tuple[np.ndarray, np.ndarray]:
        """Some texts as one batch, padded on the right to the longest of them, but at least to one token.

        Args:
            rows: Positions of the texts, ``(n_rows,)``.
            pad_token_id: Token id that fills the shorter texts.

        Returns:
            ``input_ids`` and ``attention_mask``, both ``(n_rows, width)`` of int64.
        """
        lengths = self.lengths[rows]
        if len(rows) == 1 and lengths[0]:  # the usual case of one text at a time needs no padding
            start = int(self.starts[rows[0]])
            input_ids = self.ids[None, start : start + int(lengths[0])]
            return input_ids, np.ones_like(input_ids)
        columns = np.arange(max(1, lengths.max(initial=0)))
        inside = columns < lengths[:, None]
        input_ids = np.full(inside.shape, pad_token_id, dtype=np.int64)
        input_ids[inside] = self.ids[_ranges(self.starts[rows], lengths)]
        return input_ids, inside.astype(np.int64)


class BatchTokenizer:
    """A tokenizer for many texts at once. Safe to call from several threads at once.

    Args:
        file: Content of a tokenizer.json.
        max_length: Tokens to which texts are cut, special tokens included.

    Raises:
        AmalgamError: The file is no tokenizer.
    """

    def __init__(self, file: FileContent, max_length: int) -> None:
        self._tokenizer = read_tokenizer(file)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        special = special_tokens(self._tokenizer)
        self._words = None
        if special is not None and splits_at_spaces(self._tokenizer):
            self._words = _WordCache(self._tokenizer)
            self._before, self._after = special
            self._max_body = max_length - len(self._before) - len(self._after)
        else:
            self._tokenizer.enable_truncation(max_length)

    def encode(self, texts: Sequence[str]) -> TokenIds:
        """The texts as token ids, special tokens included.

        Raises:
            AmalgamError: There are no texts.
        """
        if not texts:
            raise AmalgamError("no texts given")
        if self._words is not None:
            return self._encode_words(texts, self._words)
        encodings = self._tokenizer.encode_batch_fast(_without_lone_surrogates(texts))
        truncated = np.array([bool(encoding.overflowing) for encoding in encodings])
        return TokenIds(*_flatten([encoding.ids for encoding in encodings]), truncated)

    def _encode_words(self, texts: Sequence[str], words: _WordCache) -> TokenIds:
        """The texts as token ids, put together from the tokens of their words."""
        split = [text.split(" ") for text in texts]
        n_words = np.fromiter(map(len, split), np.int64, len(split))
        body, lengths = words.look_up(list(chain.from_iterable(split)))
        n_tokens = np.add.reduceat(lengths, np.cumsum(n_words) - n_words)
        kept = np.minimum(n_tokens, self._max_body)
        truncated = kept < n_tokens
        if truncated.any():
            body = body[_ranges(np.cumsum(n_tokens) - n_tokens, kept)]
        total = kept + len(self._before) + len(self._after)
        ends = np.cumsum(total)
        ids = np.empty(ends[-1], dtype=np.int64)
        is_body = np.ones(len(ids), dtype=bool)
        for offset, token in enumerate(self._before):
            ids[ends - total + offset] = token
            is_body[ends - total + offset] = False
        for offset, token in enumerate(reversed(self._after), 1):
            ids[ends - offset] = token
            is_body[ends - offset] = False
        ids[is_body] = body
        return TokenIds(ids, total, truncated)


def read_tokenizer(file: FileContent) -> Tokenizer:
    """The tokenizer in a tokenizer.json.

    Raises:
        AmalgamError: The file is no tokenizer.
    """
    try:
        return Tokenizer.from_buffer(file.content)
    except Exception as error:  # the tokenizers library raises bare Exception
        raise AmalgamError(f"{file.path}: cannot be read as a tokenizer ({error})") from error


class _WordCache:
    """Token ids of the words that have come so far. Safe to call from several threads at once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ascii = _AsciiWordTokenizer(tokenizer)
        self._lock = Lock()
        self._numbers: dict[str, int] = {}  # word → its position in the arrays below
        self._starts = self._lengths = self._ids = np.zeros(0, dtype=np.int64)
        self._bytes = 0

    def look_up(self, words: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The words' token ids, one word after another ``(n_tokens,)``, and the tokens of each word ``(n_words,)``."""
        with self._lock:
            try:
                numbers = list(map(self._numbers.__getitem__, words))
            except KeyError:
                self._add(words)
                numbers = list(map(self._numbers.__getitem__, words))
            starts, lengths, ids = self._starts, self._lengths, self._ids
        lengths = lengths[numbers]
        return ids[_ranges(starts[numbers], lengths)], lengths

    def _add(self, words: Sequence[str]) -> None:
        """Add the words that are not in the cache yet."""
        if self._bytes > _CACHE_BYTES:
            self._ascii.clear()
            self._numbers = {}
            self._starts = self._lengths = self._ids = self._ids[:0]
            self._bytes = 0
        new = list({word: None for word in words if word not in self._numbers})
        ids, lengths = self._encode(new)
        self._numbers.update(zip(new, range(len(self._numbers), len(self._numbers) + len(new)), strict=True))
        self._starts = np.concatenate([self._starts, len(self._ids) + np.cumsum(lengths) - lengths])
        self._lengths = np.concatenate([self._lengths, lengths])
        self._ids = np.concatenate([self._ids, ids])
        self._bytes += sum(map(len, new)) + _BYTES_PER_WORD * len(new)

    def _encode(self, words: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The words' token ids, one word after another ``(n_tokens,)``, and the tokens of each word ``(n_words,)``."""
        supported = self._ascii.supports(words)
        others = [word for word, is_supported in zip(words, supported, strict=True) if not is_supported]
        encodings = self._tokenizer.encode_batch_fast(_without_lone_surrogates(others), add_special_tokens=False)
        other_ids = (encoding.ids for encoding in encodings)
        return _flatten(
            [
                self._ascii.ids(word) if is_supported else next(other_ids)
                for word, is_supported in zip(words, supported, strict=True)
            ]
        )


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
        self._pieces: dict[str, list[int]] = {}

    def supports(self, words: Sequence[str]) -> list[bool]:
        """Whether each word can be tokenized here: all ASCII, and without any of the tokenizer's added tokens."""
        return [
            self._is_bert and bool(self._WORD.fullmatch(word)) and not self._added_token.search(word) for word in words
        ]

    def ids(self, word: str) -> list[int]:
        """The token ids of a supported word."""
        ids: list[int] = []
        for piece in self._PIECE.findall(word.lower() if self._lowercase else word):
            cached = self._pieces.get(piece)
            if cached is None:
                cached = self._pieces[piece] = [token.id for token in self._model.tokenize(piece)]
            ids += cached
        return ids

    def clear(self) -> None:
        """Empty the cache of pieces."""
        self._pieces.clear()


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
    return [token.content for token in tokenizer.get_added_tokens_decoder().values()]


def special_tokens(tokenizer: Tokenizer) -> tuple[list[int], list[int]] | None:
    """The token ids that a tokenizer adds before and after a text; None if it also changes those of the text."""
    without, with_special = (tokenizer.encode("a", add_special_tokens=special).ids for special in (False, True))
    for start in range(len(with_special) - len(without) + 1):
        end = start + len(without)
        if with_special[start:end] == without:
            return with_special[:start], with_special[end:]
    return None


def _flatten(ids: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """All ids in one array ``(n_tokens,)``, and the number of ids of each text ``(n_texts,)``."""
    return np.fromiter(chain.from_iterable(ids), np.int64), np.fromiter(map(len, ids), np.int64, len(ids))


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """``range(start, start + length)`` for each start and length, all in one array."""
    ends = np.cumsum(lengths)
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(ends[-1] if len(ends) else 0)


def _without_lone_surrogates(texts: Sequence[str]) -> list[str]:
    """The texts with question marks for lone surrogates, which JSON can hold but UTF-8 cannot encode."""
    return [text.encode("utf-8", "replace").decode() for text in texts]
