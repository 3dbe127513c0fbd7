"""What several benchmarks use: tables in documents, memory of processes, and the error for what cannot be had here.

Nothing here knows of a single benchmark. ``documents`` writes files; the rest reads or only defines.
"""
