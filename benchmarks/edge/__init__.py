"""Finished bundles on the edge: how fast they answer, how soon from a cold start, and how large they are.

In: bundles and texts. ``run`` compares them with other runtimes, ``cold_start`` times new processes,
``static_students`` compares kinds of students. Out: tables, printed or written into docs/edge.md.
"""
