"""Amalgamation methods compared over corpora, settings and seeds: ``run`` is the command, the rest are its parts.

In: labelled corpora. ``settings`` plans teachers and texts, ``architectures`` makes teachers, ``students`` trains and
measures. Out: a result.json per run, and from these tables, plots and a CSV file.
"""
