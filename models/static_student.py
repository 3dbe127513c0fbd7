"""Static students: the weighted mean of a text's token vectors under a linear head; no attention and no layers.

The token vectors are initialized as in Model2Vec (https://github.com/MinishLab/model2vec): each token of the vocabulary
goes through an encoder on its own, and the outputs are reduced to their principal components.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import (
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from amalgam_edge.errors import AmalgamError
from amalgam_edge.inference.devices import resolve_device
from amalgam_edge.models.loading import load_config, load_encoder
from amalgam_edge.numerics.components import principal_components
from amalgam_edge.runtime.manifest import STATIC

_ENCODER_BATCH = 512  # how many tokens go through the encoder at once
_SIF_CONSTANT = 1e-4  # a in a / (a + p), the weight of a token with probability p (Arora et al., ICLR 2017)
_SMALLEST_WEIGHT_SUM = 1e-9  # of the tokens of a text, so that a text without tokens divides nothing by zero


class StaticConfig(PretrainedConfig):
    """The shape of a static student.

    Attributes:
        vocab_size: The number of tokens.
        width: The number of entries of a token's vector.
        classifier_dropout: The dropout probability of the text's vector, in training.
    """

    model_type = STATIC

    def __init__(
        self, vocab_size: int = 0, width: int = 64, classifier_dropout: float = 0.1, pad_token_id: int = 0, **more: Any
    ) -> None:
        super().__init__(pad_token_id=pad_token_id, **more)
        self.vocab_size = vocab_size
        self.width = width
        self.classifier_dropout = classifier_dropout


class StaticStudent(PreTrainedModel):
    """A classifier with logits = W · Σ w(t)·E(t) / Σ w(t) + b over the unmasked tokens t of a text, w(t) = exp(l(t)).

    The token vectors E(t), the log-weights l(t), W and b are learnt.
    """

    config_class = StaticConfig
    other_token_tables = ("log_weight",)  # tables with a row for each token, besides the input embeddings

    def __init__(self, config: StaticConfig) -> None:
        super().__init__(config)
        self.table = torch.nn.Embedding(config.vocab_size, config.width)
        self.log_weight = torch.nn.Embedding(config.vocab_size, 1)
        self.dropout = torch.nn.Dropout(config.classifier_dropout)
        self.classifier = torch.nn.Linear(config.width, config.num_labels)
        self.post_init()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **more: Any) -> SequenceClassifierOutput:
        """Logits ``(n_texts, n_classes)`` of token ids and their mask, both ``(n_texts, n_tokens)``."""
        weight = self.log_weight(input_ids).squeeze(-1).exp() * attention_mask
        share = weight / weight.sum(dim=-1, keepdim=True).clamp_min(_SMALLEST_WEIGHT_SUM)
        text = (share.unsqueeze(1) @ self.table(input_ids)).squeeze(1)
        return SequenceClassifierOutput(logits=self.classifier(self.dropout(text)))

    def get_input_embeddings(self) -> torch.nn.Module:
        """The table of token vectors."""
        return self.table

    def set_input_embeddings(self, value: torch.nn.Embedding) -> None:
        """Replace the table of token vectors."""
        self.table = value


def build_static_student(
    checkpoint: str, labels: Sequence[str], *, width: int, max_length: int = 128, seed: int = 0, device: str = "auto"
) -> tuple[StaticStudent, PreTrainedTokenizerBase]:
    """Build a static classifier whose token vectors are initialized by the encoder of a checkpoint; its head is new.

    Args:
        checkpoint: The folder, or the name on the Hub, of any encoder, with a head or without.
        labels: The names of the label space.
        width: The number of entries of a token's vector, lowered to the encoder's.
        max_length: The longest input in tokens, lowered to what the encoder can take; the tokenizer truncates to it.
        seed: The seed of the head's initial weights.
        device: The device on which the encoder runs.

    Returns:
        The student and its tokenizer.

    Raises:
        AmalgamError: There is no such model.
    """
    encoder, tokenizer = load_encoder(checkpoint, load_config(checkpoint), max_length)
    return static_student_from(encoder, tokenizer, labels, width=width, seed=seed, device=device), tokenizer


def static_student_from(
    encoder: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    labels: Sequence[str],
    *,
    width: int,
    seed: int = 0,
    device: str = "auto",
) -> StaticStudent:
    """Build a static classifier that reads the same tokens as an encoder, which initializes its token vectors.

    See :func:`build_static_student`.
    """
    vectors = principal_components(token_vectors(encoder, tokenizer, device), width)
    vectors /= np.linalg.norm(vectors, axis=1).mean()
    config = StaticConfig(
        vocab_size=len(vectors),
        width=vectors.shape[1],
        pad_token_id=tokenizer.pad_token_id,
        id2label=dict(enumerate(labels)),
        label2id={label: position for position, label in enumerate(labels)},
        problem_type="single_label_classification",
    )
    set_seed(seed)
    student = StaticStudent(config)
    with torch.no_grad():
        student.table.weight.copy_(torch.from_numpy(vectors))
        student.log_weight.weight.copy_(torch.from_numpy(log_weights(len(vectors)))[:, None])
    return student


def token_vectors(encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, device: str = "auto") -> np.ndarray:
    """The output of an encoder for each token of the vocabulary alone, ``(n_tokens, hidden_size)``.

    A token is put between the tokenizer's special tokens, and the output is the mean over all of them.

    Raises:
        AmalgamError: The model does not compute a vector for each token.
    """
    from amalgam_edge.runtime.tokens import special_tokens  # scoring on torch alone has no ONNX Runtime

    before, after = special_tokens(tokenizer.backend_tokenizer) or ([], [])
    n_tokens = int(encoder.get_input_embeddings().weight.shape[0])
    resolved = resolve_device(device)
    training = encoder.training
    encoder.to(resolved).eval()
    vectors = []
    with torch.inference_mode():
        for first in range(0, n_tokens, _ENCODER_BATCH):
            tokens = np.arange(first, min(first + _ENCODER_BATCH, n_tokens))
            start, end = (np.full((len(tokens), len(ids)), ids, dtype=np.int64) for ids in (before, after))
            inputs = torch.from_numpy(np.hstack([start, tokens[:, None], end])).to(resolved)
            output = encoder(input_ids=inputs, attention_mask=torch.ones_like(inputs))
            if getattr(output, "last_hidden_state", None) is None:
                raise AmalgamError(f"a {encoder.config.model_type} cannot start a static student: it is no encoder")
            vectors.append(output.last_hidden_state.mean(dim=1).float().cpu().numpy())
    encoder.to("cpu").train(training)
    return np.concatenate(vectors)


def log_weights(n_tokens: int) -> np.ndarray:
    """The initial log-weights ln(a / (a + p)) of the tokens, shifted so that the largest is 0, ``(n_tokens,)``.

    The probability p of a token follows Zipf's law, since vocabularies begin with the most common tokens.
    """
    probability = 1.0 / (np.arange(1, n_tokens + 1) * np.log(n_tokens + 1))
    weights = np.log(_SIF_CONSTANT / (_SIF_CONSTANT + probability))
    return (weights - weights.max()).astype(np.float32)
