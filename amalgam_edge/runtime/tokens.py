"""Tokenizes many texts at once, with a cache of words.

Tokenizers like BERT's split at spaces first, so that a text's tokens are those of its words, one word after another.
Most words of a text have come before: their tokens are looked up in a cache, and the ``tokenizers`` library tokenizes
the new words only, which makes this some twenty times as fast. Other tokenizers get whole texts. Of a long text, no
more is read than its first tokens take.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
from tokenizers import Tokenizer

from amalgam_edge.errors import PROCESS_ENDING, AmalgamError, first_line
from amalgam_edge.runtime.text_prefixes import (
    CHARACTERS_PER_TOKEN,
    GROWTH,
    character_groups,
    readable_parts,
    without_lone_surrogates,
)
from amalgam_edge.runtime.word_cache import WordCache, flatten, ranges, splits_at_spaces
from amalgam_edge.storage.own_files import FileContent


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
        input_ids[inside] = self.ids[ranges(self.starts[rows], lengths)]
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
        special = special_tokens(self._tokenizer)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._n_characters = CHARACTERS_PER_TOKEN * max_length
        self._words = None
        if special is not None and splits_at_spaces(self._tokenizer):
            self._words = WordCache(self._tokenizer, self._n_characters)
            self._before, self._after = special
            self._max_body = max_length - len(self._before) - len(self._after)
            max_length += 1  # of a word: with one token more than fits, its text is known to be cut
        self._tokenizer.enable_truncation(max_length)

    def encode(self, texts: Sequence[str]) -> TokenIds:
        """The texts as token ids, special tokens included.

        A text of hundreds of thousands of characters is read to its end only if it takes that to fill the longest
        input; see :func:`readable_parts`.

        Raises:
            AmalgamError: There are no texts, or the tokenizer fails over one of them.
        """
        if not texts:
            raise AmalgamError("no texts given")
        try:
            return self._encode_texts(texts) if self._words is None else self._encode_by_words(texts, self._words)
        except PROCESS_ENDING:
            raise
        except BaseException as error:  # the tokenizers library raises bare Exception, and panics
            which = "a text" if len(texts) == 1 else f"one of {len(texts)} texts"
            raise AmalgamError(
                f"the tokenizer fails over {which} ({type(error).__name__}: {first_line(error)}); "
                "leave that text out, or build the bundle again"
            ) from error

    def _encode_texts(self, texts: Sequence[str]) -> TokenIds:
        """The texts as token ids, each tokenized by the library."""
        ids: list[list[int]] = []
        truncated: list[bool] = []
        for group in character_groups(readable_parts(self._tokenizer, texts, self._n_characters)):
            encodings = self._tokenizer.encode_batch_fast(without_lone_surrogates(group))
            ids += [encoding.ids for encoding in encodings]
            truncated += [bool(encoding.overflowing) for encoding in encodings]
        return TokenIds(*flatten(ids), np.array(truncated))

    def _encode_by_words(self, texts: Sequence[str], words: WordCache) -> TokenIds:
        """The texts as token ids, each read word by word to where its tokens are full."""
        n_characters = self._n_characters
        parts = [_words_from(text, n_characters) for text in texts]
        while True:
            tokens = self._encode_words(parts, words)
            unfinished = [
                row for row, part in enumerate(parts) if len(part) < len(texts[row]) and not tokens.truncated[row]
            ]
            if not unfinished:
                return tokens
            n_characters *= GROWTH
            for row in unfinished:
                parts[row] = _words_from(texts[row], n_characters)

    def _encode_words(self, texts: Sequence[str], words: WordCache) -> TokenIds:
        """The texts as token ids, put together from the tokens of their words."""
        split = [text.split(" ") for text in texts]
        n_words = np.fromiter(map(len, split), np.int64, len(split))
        body, lengths = words.look_up(list(chain.from_iterable(split)))
        n_tokens = np.add.reduceat(lengths, np.cumsum(n_words) - n_words)
        kept = np.minimum(n_tokens, self._max_body)
        truncated = kept < n_tokens
        if truncated.any():
            body = body[ranges(np.cumsum(n_tokens) - n_tokens, kept)]
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
        AmalgamError: The file is no tokenizer, or one that fails over any text.
    """
    try:
        tokenizer = Tokenizer.from_buffer(file.content)
        special_tokens(tokenizer)
    except PROCESS_ENDING:
        raise
    except BaseException as error:  # the tokenizers library raises bare Exception, and panics
        raise AmalgamError(f"{file.path}: cannot be read as a tokenizer ({first_line(error)})") from error
    return tokenizer


def special_tokens(tokenizer: Tokenizer) -> tuple[list[int], list[int]] | None:
    """The token ids that a tokenizer adds before and after a text; None if it also changes those of the text."""
    without, with_special = (tokenizer.encode("a", add_special_tokens=special).ids for special in (False, True))
    for start in range(len(with_special) - len(without) + 1):
        end = start + len(without)
        if with_special[start:end] == without:
            return with_special[:start], with_special[end:]
    return None


def _words_from(text: str, n_characters: int) -> str:
    """The words of a text that begin in its first characters; all of it if it is short."""
    if len(text) <= n_characters:
        return text
    end = text.find(" ", n_characters)
    return text if end < 0 else text[:end]
