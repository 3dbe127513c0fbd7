"""Measures of predictions, of probabilities and of speed. Pure functions on arrays, but for timing.

In: logits, probabilities, gold labels, functions to time. Out: numbers and curves.
"""
