"""Fitting a classifier to supervision, on one process or on several that share each batch.

In: tokenized texts, their supervision, a loss. Out: a trained model and its training curve.
"""
