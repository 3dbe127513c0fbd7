"""The texts that a user brings, read through ``datasets`` and memory-mapped.

Inside: :mod:`formats` (how a file of each suffix is read; a new file format is one entry there), :mod:`sources` (where
texts come from: local files, URLs, the Hub), :mod:`reading` (columns, blank and duplicate texts), :mod:`corpus`.
In: a path, a pattern, a URL or ``hf://datasets/NAME``. Out: a :class:`Corpus`.
"""

from amalgam_edge.corpus.corpus import TEXT, Corpus
from amalgam_edge.corpus.reading import read_corpus, read_label_names

__all__ = ["TEXT", "Corpus", "read_corpus", "read_label_names"]
