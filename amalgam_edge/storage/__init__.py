"""Reading and writing: :mod:`files` on any file system, :mod:`staging` of outputs, :mod:`fingerprints`.

In: paths, URLs, bytes. Out: files and folders that appear whole or not at all, SHA-256 fingerprints.
"""
