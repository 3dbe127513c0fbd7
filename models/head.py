"""What a classifier makes of a text before it names a label.

A text's hidden state is what goes into the classifier's last layer, the linear one that the logits come out of. Every
architecture has one, whatever it does before: a pooler under tanh (BERT), a dense layer of the head (RoBERTa,
DistilBERT), or a mean over tokens (ModernBERT, static students).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

from amalgam_edge.errors import AmalgamError


def last_layer(model: PreTrainedModel) -> torch.nn.Linear:
    """The linear layer that a classifier's logits come out of: the last one with an output a label in its head.

    The head is what is not the encoder, which some architectures name after it.

    Raises:
        AmalgamError: there is none.
    """
    n_labels = model.config.num_labels
    encoder = set() if model.base_model is model else set(model.base_model.modules())
    head = [module for module in model.modules() if module not in encoder]
    found = [m for m in head if isinstance(m, torch.nn.Linear) and m.out_features == n_labels]
    if not found:
        raise AmalgamError(f"a {model.config.model_type} has no linear layer that its labels come out of")
    return found[-1]


@contextmanager
def hidden_state(model: PreTrainedModel) -> Iterator[Callable[[], torch.Tensor]]:
    """While entered, what it yields returns the hidden states of the last forward run, ``(n_texts, width)``.

    Raises:
        AmalgamError: when it is called, if the last layer reads anything else than one vector a text.
    """
    seen: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        seen[:] = inputs

    def latest() -> torch.Tensor:
        if not seen or seen[0].ndim != 2:
            raise AmalgamError(
                f"a {model.config.model_type} has no hidden state a text: its last layer reads something else; "
                "take a method that reads none (amalgam-edge methods)"
            )
        return seen[0]

    handle = last_layer(model).register_forward_pre_hook(keep)
    try:
        yield latest
    finally:
        handle.remove()
