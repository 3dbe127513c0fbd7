"""Each teacher's predictions and uncertainty on each text of a corpus, under Monte-Carlo dropout.

Inside: scoring (:mod:`score`, :mod:`adaptive_passes`, :mod:`isolation` of failing texts, :mod:`backends`, :mod:`ray`),
stores on disk (:mod:`shards`, :mod:`store`, :mod:`hidden_states`, :mod:`features`), reading them (:mod:`folders`,
:mod:`inspection`, :mod:`summary`). In: teachers and a corpus. Out: :class:`~amalgam_edge.scoring.scores.TeacherScores`.
"""
