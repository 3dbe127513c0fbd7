"""Linear algebra that several parts use. Pure functions on arrays.

In and out: arrays.
"""
