"""Running a model over texts, with dropout on or off: runners, batches, devices.

In: a model and token ids. Out: logits, a row per text.
"""
