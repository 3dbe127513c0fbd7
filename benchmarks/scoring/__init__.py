"""Scoring teachers under dropout: its speed, the error that comes with it, its masks, and the Ray engine.

In: teachers and texts. ``run`` compares ways to score, ``mask_convergence`` kinds of masks, ``ray_engine`` engines.
Out: tables, printed or written into docs/scoring.md and docs/scale.md.
"""
