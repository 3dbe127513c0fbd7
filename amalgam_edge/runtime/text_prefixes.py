"""Finds how much of a long text has to be read for its first tokens.

A text is cut to the model's longest input, a few hundred tokens, but the ``tokenizers`` library reads all of it first:
half a second and tens of megabytes for a text of 100,000 characters. So only the beginning of a text is given to it,
and more where that does not settle the tokens that are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tokenizers import Encoding, Tokenizer

CHARACTERS_PER_TOKEN = 16  # of the first part that is read, for each token that is kept; words have 4 to 6 for a token

GROWTH = 4  # from one part to the next, should the first one not do
_WORDS_BEYOND = 16  # words between the tokens that are kept and the end of the part
_CHARACTERS_WITHOUT_WORDS = 8192  # from here on, a part need not end between words
_TOKENS_BEYOND = 256  # tokens that such a part has besides those that are kept
_CHARACTERS_AT_ONCE = 1 << 18  # the library needs some 100 bytes for each character


def readable_parts(tokenizer: Tokenizer, texts: Sequence[str], n_characters: int) -> list[str]:
    """Each text, or a beginning of it that has the same first tokens.

    What follows a beginning changes the tokens of the word in which it ends, and perhaps of a word or two before that.
    So a beginning will do if sixteen words follow the tokens that are kept, by the tokenizer's own idea of a word. A
    text may lack words: Chinese does for many tokenizers, and so do 10,000 letters without a space. From 8,192
    characters on, 256 further tokens are enough, too. WordPiece and BPE, which work from the left, give the same tokens
    then as well. Unigram weighs a word as a whole: there, tokens of a word of more than 8,192 characters may be others.

    Args:
        tokenizer: The tokenizer. It cuts texts to at least one token.
        texts: The texts.
        n_characters: Texts up to this length are left as they are.
    """
    parts = list(texts)
    unsettled = [row for row, text in enumerate(texts) if len(text) > n_characters]
    while unsettled:
        beginnings = [texts[row][:n_characters] for row in unsettled]
        encodings = _encode(tokenizer, beginnings)
        rows, unsettled = unsettled, []
        for row, beginning, encoding in zip(rows, beginnings, encodings, strict=True):
            if _is_settled(encoding, len(beginning)):
                parts[row] = beginning
            elif n_characters * GROWTH < len(texts[row]):
                unsettled.append(row)
        n_characters *= GROWTH
    return parts


def character_groups(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """The texts in order, in groups that the library can tokenize at once without much memory."""
    first = n_characters = 0
    for row, text in enumerate(texts):
        if n_characters and n_characters + len(text) > _CHARACTERS_AT_ONCE:
            yield texts[first:row]
            first, n_characters = row, 0
        n_characters += len(text)
    yield texts[first:]


def without_lone_surrogates(texts: Sequence[str]) -> list[str]:
    """The texts with question marks for lone surrogates, which JSON can hold but UTF-8 cannot encode."""
    return [text.encode("utf-8", "replace").decode() for text in texts]


def _encode(tokenizer: Tokenizer, texts: Sequence[str]) -> Iterator[Encoding]:
    for group in character_groups(texts):
        # encode_batch_fast is no faster with long texts, and does not tell which word a token belongs to.
        yield from tokenizer.encode_batch(without_lone_surrogates(group), add_special_tokens=False)


def _is_settled(encoding: Encoding, n_characters: int) -> bool:
    """Whether the tokens that are kept stay the same, whatever follows the beginning of a text."""
    beyond = encoding.overflowing
    if not beyond:
        return False
    first, last = beyond[0].word_ids[0], beyond[-1].word_ids[-1]
    if first is not None and last is not None and last - first >= _WORDS_BEYOND:
        return True
    return n_characters >= _CHARACTERS_WITHOUT_WORDS and sum(map(len, beyond)) > _TOKENS_BEYOND
