"""Types of models that transformers does not know."""

STATIC = "static"  # a student without layers
