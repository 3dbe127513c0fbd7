"""Labelled corpora: ``make_*`` make those of examples/data/, and ``hub`` reads others from the Hub.

In: files of public packages, or data sets of the Hugging Face Hub. Out: CSV files with the columns text and label, of
texts that ``sampling`` has chosen.
"""
