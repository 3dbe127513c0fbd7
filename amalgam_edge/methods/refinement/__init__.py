"""The parts of the method "refined".

In: scores and features. Out: posteriors over labels.
"""
