"""The method ``refined`` taken apart: its variants compared by a logistic regression in the student's place.

In: teachers and scores of ``benchmarks.amalgamation``. ``variants`` makes supervision from them, ``run`` measures it.
Out: results as JSON, and tables of them.
"""
