"""Teachers and students as torch models: how checkpoints are loaded, cut, started and trimmed.

In: a folder or a name on the Hub. Out: a ``Teacher``, or a student and its tokenizer.
``loading`` is the only module that reads checkpoints. A new kind of teacher starts in ``teacher``, a new kind of
student beside ``student`` (an encoder cut to fewer layers) and ``static_student`` (token vectors and no layers).
"""
