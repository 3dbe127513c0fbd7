"""Benchmarks of the product: commands that measure it and write the tables of docs/.

Each package holds the commands of one subject, run as ``python -m benchmarks.PACKAGE.MODULE``; README.md lists them.
They read corpora, teachers and bundles, and write results below ``runs/`` and, where asked, tables into a document.
"""

import amalgam_edge  # noqa: F401  (before any library that has telemetry, which it turns off)
