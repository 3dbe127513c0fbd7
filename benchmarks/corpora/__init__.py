"""Labelled corpora: ``make_*`` commands that make those of samples/data/, and ``hub``, which reads others from the Hub.

In: files of public packages, or data sets of the Hugging Face Hub. Out: CSV files with the columns text and label, of
texts that ``sampling`` has chosen.
"""
