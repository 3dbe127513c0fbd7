"""The edge: numpy, tokenizers and onnxruntime; nothing else."""

from amalgam_edge.runtime.bundle import Bundle
from amalgam_edge.runtime.classifier import EdgeClassifier, Prediction

__all__ = ["Bundle", "EdgeClassifier", "Prediction"]
