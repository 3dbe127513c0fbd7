"""Tables that a user brings, read row by row in bounded memory, without ``datasets``.

Inside: :mod:`formats` (endings, and what a file's first bytes say), :mod:`unpacking` (compressed files within bounds),
:mod:`lines` (UTF-8 lines), :mod:`rows` (CSV, JSON and Parquet), :mod:`columns` (which one is the text), :mod:`reading`.
In: a file or standard input. Out: a :class:`~amalgam_edge.tables.reading.TextTable`.
"""
