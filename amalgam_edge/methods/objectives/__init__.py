"""Objectives: losses that read the teachers' logits or hidden states and may have trainable layers. They need torch.

In: a :class:`TrainingBatch`. Out: a scalar loss. A method imports its objective when a student is trained.
"""

from amalgam_edge.methods.objectives.objective import Objective, TrainingBatch

__all__ = ["Objective", "TrainingBatch"]
