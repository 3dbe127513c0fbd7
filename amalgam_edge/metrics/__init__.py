"""Measures of answers and of speed. Pure functions on arrays.

In: logits, probabilities, labels, timings. Out: numbers and curves.
"""
