"""Token ids by the ``tokenizers`` library and by ours, to be compared."""

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from amalgam_edge.runtime.tokens import BatchTokenizer
from amalgam_edge.storage.own_files import FileContent


def open_batch_tokenizer(tokenizer, max_length):
    """Ours, from what the library would save."""
    return BatchTokenizer(FileContent(Path("tokenizer.json"), tokenizer.to_str().encode()), max_length)


def library_tokens(tokenizer, texts, max_length):
    """Token ids of each text, and whether it was cut, by the library."""
    tokenizer = Tokenizer.from_str(tokenizer.to_str())
    tokenizer.enable_truncation(max_length)
    encodings = tokenizer.encode_batch([text.encode("utf-8", "replace").decode() for text in texts])
    return [encoding.ids for encoding in encodings], [bool(encoding.overflowing) for encoding in encodings]


def our_tokens(opened, texts):
    """The same by a :class:`BatchTokenizer`."""
    found = opened.encode(texts)
    parts = np.split(found.ids, np.cumsum(found.lengths)[:-1])
    return [part.tolist() for part in parts], found.truncated.tolist()
