"""Measuring a finished bundle: on labelled texts, beside another bundle, beside other runtimes.

In: a bundle and texts. Out: typed results.
"""
