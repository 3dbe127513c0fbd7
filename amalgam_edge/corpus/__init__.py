"""The texts that a user brings, read through ``datasets`` and memory-mapped.

In: a file, a folder, a URL or a Hub data set. Out: a :class:`~amalgam_edge.corpus.reading.Corpus`.
"""
