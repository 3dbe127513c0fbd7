"""Scoring on a cluster, by Ray."""
