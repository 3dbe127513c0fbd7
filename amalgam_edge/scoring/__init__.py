"""What each teacher says of each text under Monte-Carlo dropout, and how sure it is; kept on disk in shards.

In: teachers and a corpus. Out: :class:`~amalgam_edge.scoring.scores.TeacherScores` in resumable stores.
"""
