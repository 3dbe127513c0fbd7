"""Linear algebra that several packages use. Pure functions on arrays.

In: vectors of texts, and a loss. Out: principal components and the weights of linear classifiers.
"""
