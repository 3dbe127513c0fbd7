"""Monte-Carlo dropout: which calls of dropout a model has, and the masks that they get.

In: a torch model, a seed, a pass number. Out: the same model under reproducible masks.
"""
