"""Scoring on a Ray cluster: :mod:`cluster` (the driver), :mod:`worker`, :mod:`pending` texts, :mod:`attempts`.

In: teachers, a corpus and the address of a cluster. Out: the shards that stores lack, as the local engine makes them.
"""
