"""Static students: a vector and a weight for each token, their mean, and a linear head; no attention, no layers.

The table of vectors is started as Model2Vec does it (https://github.com/MinishLab/model2vec): each token of the
vocabulary goes through an encoder on its own, and what comes out is cut to its principal components.
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

_TOKENS_AT_ONCE = 512
_RARE = 1e-4  # a of a / (a + p), the weight of a token with probability p (Arora et al., ICLR 2017)
_SMALLEST_SUM = 1e-9  # of the weights of a text's tokens; less is a text without any


class StaticConfig(PretrainedConfig):
    """The shape of a static student.

    Attributes:
        vocab_size: tokens.
        width: entries of a token's vector.
        classifier_dropout: of the text's vector, in training.
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
    """logits = W · Σ w(t)·E(t) / Σ w(t) + b over the tokens t of a text, masked ones left out; w = exp(learned)."""

    config_class = StaticConfig
    other_token_tables = ("log_weight",)  # with a row a token, besides the input embeddings

    def __init__(self, config: StaticConfig) -> None:
        super().__init__(config)
        self.table = torch.nn.Embedding(config.vocab_size, config.width)
        self.log_weight = torch.nn.Embedding(config.vocab_size, 1)
        self.dropout = torch.nn.Dropout(config.classifier_dropout)
        self.classifier = torch.nn.Linear(config.width, config.num_labels)
        self.post_init()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **more: Any) -> SequenceClassifierOutput:
        """Logits ``(n_texts, n_labels)`` of token ids and their mask, both ``(n_texts, n_tokens)``."""
        weight = self.log_weight(input_ids).squeeze(-1).exp() * attention_mask
        share = weight / weight.sum(dim=-1, keepdim=True).clamp_min(_SMALLEST_SUM)
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
    """A static classifier over ``labels`` whose table starts from the encoder of ``checkpoint``; its head is new.

    Args:
        checkpoint: folder or Hub name of any encoder, with a head or without.
        labels: the label space's names.
        width: entries of a token's vector, cut to what the encoder's have.
        max_length: the longest input in tokens, cut to what the encoder can take; becomes the tokenizer's.
        seed: of the head's initial weights.
        device: that the encoder runs on.

    Raises:
        AmalgamError: no such model.
    """
    encoder, tokenizer = load_encoder(checkpoint, load_config(checkpoint), max_length)
    return static_student_of(encoder, tokenizer, labels, width=width, seed=seed, device=device), tokenizer


def static_student_of(
    encoder: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    labels: Sequence[str],
    *,
    width: int,
    seed: int = 0,
    device: str = "auto",
) -> StaticStudent:
    """A static classifier that reads the same tokens as an encoder, and starts from what it makes of each."""
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
    """What an encoder makes of each token between its special tokens: the mean over them, ``(n_tokens, hidden)``.

    Raises:
        AmalgamError: the model does not give a vector for each token.
    """
    from amalgam_edge.runtime.tokens import special_tokens  # scoring on torch alone has no ONNX Runtime

    before, after = special_tokens(tokenizer.backend_tokenizer) or ([], [])
    n_tokens = int(encoder.get_input_embeddings().weight.shape[0])
    where = resolve_device(device)
    training = encoder.training
    encoder.to(where).eval()
    vectors = []
    with torch.inference_mode():
        for first in range(0, n_tokens, _TOKENS_AT_ONCE):
            alone = np.arange(first, min(first + _TOKENS_AT_ONCE, n_tokens))
            around = [np.full((len(alone), len(ids)), ids, dtype=np.int64) for ids in (before, after)]
            inputs = torch.from_numpy(np.hstack([around[0], alone[:, None], around[1]])).to(where)
            answered = encoder(input_ids=inputs, attention_mask=torch.ones_like(inputs))
            if getattr(answered, "last_hidden_state", None) is None:
                raise AmalgamError(f"a {encoder.config.model_type} cannot start a static student: it is no encoder")
            vectors.append(answered.last_hidden_state.mean(dim=1).float().cpu().numpy())
    encoder.to("cpu").train(training)
    return np.concatenate(vectors)


def log_weights(n_tokens: int) -> np.ndarray:
    """ln(a / (a + p)), the largest 0, ``(n_tokens,)``: p by Zipf's law, as vocabularies begin with common tokens."""
    probability = 1.0 / (np.arange(1, n_tokens + 1) * np.log(n_tokens + 1))
    weights = np.log(_RARE / (_RARE + probability))
    return (weights - weights.max()).astype(np.float32)
