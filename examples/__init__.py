"""Examples that use the product as its users do: ``demo`` is what `make demo` runs.

In: the sample corpora and the encoder of ``samples``. Out: teachers, texts and a bundle below ``runs/``.
"""
