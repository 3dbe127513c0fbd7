"""Teachers of independent questions, and the test of whether teachers compete.

In: labelled corpora, some with several gold columns. ``questions`` holds these columns, ``teachers`` fine-tunes a
teacher for each, ``settings`` lists sets of teachers of which it is known whether they compete, ``scoring`` scores
them, and ``competition`` is the command that tries the test on them. Out: teachers, texts and tables below ``runs/``.
"""
