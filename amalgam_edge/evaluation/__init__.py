"""Measuring: heads on labelled texts, a bundle beside its teachers, beside another bundle, beside other runtimes.

In: answers and gold answers, or a bundle and texts. Out: typed results.
"""
