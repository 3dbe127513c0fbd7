"""The edge: answers texts with a bundle, with numpy, tokenizers and onnxruntime only.

In: a bundle's folder and texts. Out: labels, scores, logits.
"""

from amalgam_edge.runtime.bundle import Bundle
from amalgam_edge.runtime.classifier import EdgeClassifier, Prediction

__all__ = ["Bundle", "EdgeClassifier", "Prediction"]
