"""The parts of the method ``refined``: teachers as annotators, the probe, and label shares.

In: teacher scores, features and targets. Out: likelihoods and probabilities over labels.
"""
