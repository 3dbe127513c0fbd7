"""Read a classifier's hidden state: the vector of a text that the last linear layer turns into logits.

Every architecture has such a layer, whatever comes before it: a pooler under tanh (BERT), a dense layer of the head
(RoBERTa, DistilBERT), or a mean over tokens (ModernBERT, static students).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

from amalgam_edge.errors import AmalgamError


def last_layer(model: PreTrainedModel) -> torch.nn.Linear:
    """The linear layer that computes a classifier's logits: the last in its head with an output for each label.

    The head is everything but the encoder; architectures name its parts differently.

    Raises:
        AmalgamError: There is no such layer.
    """
    n_labels = model.config.num_labels
    encoder = set() if model.base_model is model else set(model.base_model.modules())
    head = [module for module in model.modules() if module not in encoder]
    candidates = [m for m in head if isinstance(m, torch.nn.Linear) and m.out_features == n_labels]
    if not candidates:
        raise AmalgamError(f"a {model.config.model_type} has no linear layer that its labels come out of")
    return candidates[-1]


@contextmanager
def capture_hidden_state(model: PreTrainedModel) -> Iterator[Callable[[], torch.Tensor]]:
    """Capture what the last layer reads in each forward run, while the context is entered.

    Yields:
        A function that returns the hidden states of the latest forward run, ``(n_texts, width)``.

    Raises:
        AmalgamError: When that function is called, if the last layer did not read one vector a text.
    """
    captured: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        captured[:] = inputs

    def latest() -> torch.Tensor:
        if not captured or captured[0].ndim != 2:
            raise AmalgamError(
                f"a {model.config.model_type} has no hidden state a text: its last layer reads something else; "
                "take a method that reads none (amalgam-edge methods)"
            )
        return captured[0]

    handle = last_layer(model).register_forward_pre_hook(keep)
    try:
        yield latest
    finally:
        handle.remove()
