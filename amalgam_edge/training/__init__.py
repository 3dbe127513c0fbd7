"""Training a classifier under supervision, in one process or in several that share each batch.

In: tokenized texts, their supervision, and a loss or an objective. Out: the trained model and its training curve.
"""
