"""An example that uses the product as its users do, and the texts and teachers that it shares with the benchmarks.

``demo`` is `make demo`; ``corpora`` reads and splits the labelled texts in ``data/``; ``teachers`` fine-tunes on them.
In: these texts, and the encoder that the extra ``demo`` brings. Out: teachers, texts and a bundle below ``runs/``.
"""

import amalgam_edge  # noqa: F401  (before any library that has telemetry, which it turns off)
