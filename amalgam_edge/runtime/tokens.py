"""Texts as token ids in flat arrays, by way of words that were met before.

A tokenizer of the BERT kind cuts at spaces before it does anything else, so that a text's tokens are those of its
words, one after another. Most words of a text have been met before: they are looked up, and the ``tokenizers`` library
is asked for the new ones alone, which is some twenty times as fast. Other tokenizers are asked for whole texts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from amalgam_edge.errors import AmalgamError

_WORD_BYTES = 500  # what a remembered word and its pieces take besides their characters
_MEMORY = 16_000_000  # bytes of remembered words, after which they are forgotten and learned anew

# What sees one character at a time, or a character with the marks that follow it.
_LOCAL_NORMALIZERS = frozenset({"BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "StripAccents"})
_CUT_AT_SPACES = frozenset({"BertPreTokenizer", "Whitespace", "WhitespaceSplit"})


@dataclass(frozen=True)
class TokenIds:
    """Several texts as token ids.

    Attributes:
        ids: of all texts, one text after another, ``(n_tokens,)`` of int64.
        lengths: tokens of each text, ``(n_texts,)``.
        truncated: whether a text was cut, ``(n_texts,)`` of bool.
    """

    ids: np.ndarray
    lengths: np.ndarray
    truncated: np.ndarray

    @cached_property
    def starts(self) -> np.ndarray:
        """Where each text begins in ``ids``, ``(n_texts,)``."""
        return np.cumsum(self.lengths) - self.lengths

    def padded(self, rows: np.ndarray, pad_token_id: int) -> tuple[np.ndarray, np.ndarray]:
        """Some texts as one rectangle, filled up on the right to the longest, or to one token where all are empty.

        Returns:
            ``input_ids`` and ``attention_mask``, both ``(n_rows, width)`` of int64.
        """
        lengths = self.lengths[rows]
        if len(rows) == 1 and lengths[0]:  # one text at a time is worth a way of its own
            start = int(self.starts[rows[0]])
            input_ids = self.ids[None, start : start + int(lengths[0])]
            return input_ids, np.ones_like(input_ids)
        columns = np.arange(max(1, lengths.max(initial=0)))
        inside = columns < lengths[:, None]
        input_ids = np.full(inside.shape, pad_token_id, dtype=np.int64)
        input_ids[inside] = self.ids[_spans(self.starts[rows], lengths)]
        return input_ids, inside.astype(np.int64)


class BatchTokenizer:
    """A tokenizer for many texts at once. Safe to call from several threads at once.

    Args:
        path: of its tokenizer.json.
        max_length: texts are cut to this many tokens.

    Raises:
        AmalgamError: the file is no tokenizer.
    """

    def __init__(self, path: Path, max_length: int) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the tokenizers library raises bare Exception
            raise AmalgamError(f"{path}: cannot be read as a tokenizer ({error})") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        around = special_tokens(self._tokenizer)
        self._words = None
        if around is not None and cuts_at_spaces(self._tokenizer):
            self._words = _Words(self._tokenizer)
            self._before, self._after = around
            self._room = max_length - len(self._before) - len(self._after)
        else:
            self._tokenizer.enable_truncation(max_length)

    def encode(self, texts: Sequence[str]) -> TokenIds:
        """The texts as token ids, special tokens included.

        Raises:
            AmalgamError: there are no texts.
        """
        if not texts:
            raise AmalgamError("no texts given")
        if self._words is not None:
            return self._encode_words(texts, self._words)
        encodings = self._tokenizer.encode_batch_fast(_decodable(texts))
        truncated = np.array([bool(encoding.overflowing) for encoding in encodings])
        return TokenIds(*_flat([encoding.ids for encoding in encodings]), truncated)

    def _encode_words(self, texts: Sequence[str], words: _Words) -> TokenIds:
        split = [text.split(" ") for text in texts]
        n_words = np.fromiter(map(len, split), np.int64, len(split))
        body, lengths = words.look_up(list(chain.from_iterable(split)))
        n_tokens = np.add.reduceat(lengths, np.cumsum(n_words) - n_words)
        kept = np.minimum(n_tokens, self._room)
        truncated = kept < n_tokens
        if truncated.any():
            body = body[_spans(np.cumsum(n_tokens) - n_tokens, kept)]
        total = kept + len(self._before) + len(self._after)
        ends = np.cumsum(total)
        ids = np.empty(ends[-1], dtype=np.int64)
        own = np.ones(len(ids), dtype=bool)
        for place, token in enumerate(self._before):
            ids[ends - total + place] = token
            own[ends - total + place] = False
        for place, token in enumerate(reversed(self._after), 1):
            ids[ends - place] = token
            own[ends - place] = False
        ids[own] = body
        return TokenIds(ids, total, truncated)


class _Words:
    """Words and their token ids, learned as they are met. Safe to call from several threads at once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._plain = _PlainWords(tokenizer)
        self._lock = Lock()
        self._numbers: dict[str, int] = {}
        self._starts = self._lengths = self._ids = np.zeros(0, dtype=np.int64)
        self._bytes = 0

    def look_up(self, words: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The words' ids, one word after another ``(n_tokens,)``, and how many each has ``(n_words,)``."""
        with self._lock:
            try:
                numbers = list(map(self._numbers.__getitem__, words))
            except KeyError:
                self._learn(words)
                numbers = list(map(self._numbers.__getitem__, words))
            starts, lengths, ids = self._starts, self._lengths, self._ids
        lengths = lengths[numbers]
        return ids[_spans(starts[numbers], lengths)], lengths

    def _learn(self, words: Sequence[str]) -> None:
        if self._bytes > _MEMORY:
            self._plain.forget()
            self._numbers = {}
            self._starts = self._lengths = self._ids = self._ids[:0]
            self._bytes = 0
        new = list({word: None for word in words if word not in self._numbers})
        ids, lengths = self._encode(new)
        self._numbers.update(zip(new, range(len(self._numbers), len(self._numbers) + len(new)), strict=True))
        self._starts = np.concatenate([self._starts, len(self._ids) + np.cumsum(lengths) - lengths])
        self._lengths = np.concatenate([self._lengths, lengths])
        self._ids = np.concatenate([self._ids, ids])
        self._bytes += sum(map(len, new)) + _WORD_BYTES * len(new)

    def _encode(self, words: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        plain = self._plain.are_plain(words)
        foreign = [word for word, is_plain in zip(words, plain, strict=True) if not is_plain]
        answered = iter(self._tokenizer.encode_batch_fast(_decodable(foreign), add_special_tokens=False))
        return _flat(
            [
                self._plain.ids(word) if is_plain else next(answered).ids
                for word, is_plain in zip(words, plain, strict=True)
            ]
        )


class _PlainWords:
    """Words of ASCII characters, which BERT's tokenizer cuts at each mark of punctuation and nowhere else.

    The ``tokenizers`` library takes ten times as long to prepare a word as to find its pieces.
    """

    _WORD = re.compile(r"[!-~]+")
    _PIECE = re.compile(r"[0-9A-Za-z]+|[!-~]")

    def __init__(self, tokenizer: Tokenizer) -> None:
        normalizers, cutters = _steps(tokenizer.normalizer), _steps(tokenizer.pre_tokenizer)
        kinds = [step["type"] for step in (*normalizers, *cutters)]
        self._known = kinds == ["BertNormalizer", "BertPreTokenizer"]
        self._lowercase = self._known and normalizers[0]["lowercase"]
        self._added = re.compile("|".join(map(re.escape, _added_tokens(tokenizer))) or r"(?!)", re.IGNORECASE)
        self._model = tokenizer.model
        self._pieces: dict[str, list[int]] = {}

    def are_plain(self, words: Sequence[str]) -> list[bool]:
        """Which words are known to be cut so; those that hold an added token are not."""
        return [self._known and bool(self._WORD.fullmatch(word)) and not self._added.search(word) for word in words]

    def ids(self, word: str) -> list[int]:
        """The token ids of a plain word."""
        ids: list[int] = []
        for piece in self._PIECE.findall(word.lower() if self._lowercase else word):
            known = self._pieces.get(piece)
            if known is None:
                known = self._pieces[piece] = [token.id for token in self._model.tokenize(piece)]
            ids += known
        return ids

    def forget(self) -> None:
        """Give the memory of pieces back."""
        self._pieces.clear()


def cuts_at_spaces(tokenizer: Tokenizer) -> bool:
    """Whether a text's tokens are those of its words, where words are what stands between spaces."""
    normalizers, cutters = _steps(tokenizer.normalizer), _steps(tokenizer.pre_tokenizer)
    return (
        all(step["type"] in _LOCAL_NORMALIZERS for step in normalizers)
        and bool(cutters)
        and cutters[0]["type"] in _CUT_AT_SPACES
        and not getattr(tokenizer.model, "dropout", None)
        and not any(" " in token for token in _added_tokens(tokenizer))
    )


def _steps(part: Any) -> list[dict[str, Any]]:
    """The steps of a normalizer or pre-tokenizer, as they stand in a tokenizer.json."""
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
    """The ids that a tokenizer puts before and after a text; None where it changes the text's own."""
    bare, whole = (tokenizer.encode("a", add_special_tokens=special).ids for special in (False, True))
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return whole[:start], whole[start + len(bare) :]
    return None


def _flat(ids: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Ids one text after another ``(n_tokens,)``, and how many each has ``(n_texts,)``."""
    return np.fromiter(chain.from_iterable(ids), np.int64), np.fromiter(map(len, ids), np.int64, len(ids))


def _spans(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The integers from each start on, as many as its length, one span after another."""
    ends = np.cumsum(lengths)
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(ends[-1] if len(ends) else 0)


def _decodable(texts: Sequence[str]) -> list[str]:
    """Half a surrogate pair, which JSON may hold, is no text: it becomes a question mark."""
    return [text.encode("utf-8", "replace").decode() for text in texts]
