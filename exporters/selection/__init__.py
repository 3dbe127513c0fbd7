"""What may ship: agreement with the float model, trimmed vocabularies, the files of a bundle.

In: models and held-out texts. Out: the models that are good enough.
"""
