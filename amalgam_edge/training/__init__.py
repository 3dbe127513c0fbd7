"""Fitting a classifier to supervision, on one process or on several that share each batch.

``torchrun --nproc-per-node 2 -m amalgam_edge.training recipe.yaml`` builds what the recipe says, and trains on both.
"""

from amalgam_edge.training.fitting import (
    History,
    LossFunction,
    SupervisedTexts,
    TrainingSettings,
    check_logger,
    fit,
)

__all__ = ["History", "LossFunction", "SupervisedTexts", "TrainingSettings", "check_logger", "fit"]
