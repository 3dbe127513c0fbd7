"""Monte-Carlo dropout: :mod:`sites` (the calls of dropout in a model) and :mod:`masks` (which units each pass drops).

In: a torch model, a seed, the number of a pass. Out: runs of the same model under masks that can be repeated.
"""
