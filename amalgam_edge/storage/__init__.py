"""Bytes in and out: files on any file system, folders that appear whole, fingerprints.

In: paths, URLs, bytes. Out: files and SHA-256 digests.
"""
