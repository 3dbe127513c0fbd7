"""Bundles behind HTTP, with requests batched together, limits, metrics, and bundles replaced while the server runs.

In: folders of bundles and HTTP requests. Out: labels and scores by the protocols in ``protocols``, one module each, and
the web page at ``/``.
"""
