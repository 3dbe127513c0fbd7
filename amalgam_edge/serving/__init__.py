"""Bundles behind HTTP: micro-batching, two protocols, limits, metrics, and bundles that are swapped while it runs."""
