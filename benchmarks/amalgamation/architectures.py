"""Teachers of three architectures, all started from one pretrained BERT: BERT itself, a DistilBERT and a RoBERTa."""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForSequenceClassification,
    DistilBertConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    RobertaConfig,
    set_seed,
)

from amalgam_edge.models.student import build_student
from amalgam_edge.models.vocabulary import kept_tokens, trim_vocabulary
from examples.teachers import Classifier, encoder_folder

ARCHITECTURES = ("bert", "distilbert", "roberta")
DISTILBERT_LAYERS, ROBERTA_LAYERS = 3, 4
ROBERTA_TOKENS = 4000
_ROBERTA_POSITION_OFFSET = 2  # its first position is the one after padding's id


def untrained(labels: Sequence[str], texts: Sequence[str], seed: int, *, architecture: str) -> Classifier:
    """A classifier with a pretrained encoder and a new head, before any fine-tuning.

    Args:
        labels: Its labels, in the order of its logits.
        texts: Texts that it will be fine-tuned on; the tokenizers of ``distilbert`` and ``roberta`` are made for them.
        seed: Seed of the head's weights.
        architecture: One of ``ARCHITECTURES``; see :func:`as_distilbert` and :func:`as_roberta`.
    """
    layers = {"bert": None, "distilbert": DISTILBERT_LAYERS, "roberta": ROBERTA_LAYERS}[architecture]
    bert = build_student(encoder_folder(), labels, layers=layers, seed=seed)
    if architecture == "distilbert":
        return without_unused_tokens(*as_distilbert(*bert, seed=seed), texts)
    return as_roberta(*bert, texts, seed=seed) if architecture == "roberta" else bert


def as_distilbert(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, seed: int = 0) -> Classifier:
    """A DistilBERT with the layers of a BERT and a new head; it encodes a text as the BERT does.

    DistilBERT knows no segments: the vector of the BERT's first segment is added to the positions.
    """
    bert, old = model.config, model.base_model.state_dict()
    config = DistilBertConfig(
        vocab_size=bert.vocab_size,
        max_position_embeddings=bert.max_position_embeddings,
        n_layers=bert.num_hidden_layers,
        n_heads=bert.num_attention_heads,
        dim=bert.hidden_size,
        hidden_dim=bert.intermediate_size,
        pad_token_id=bert.pad_token_id,
        **_labels_of(bert),
    )
    new = {
        "embeddings.word_embeddings.weight": old["embeddings.word_embeddings.weight"],
        "embeddings.position_embeddings.weight": _positions(old),
    }
    names = {
        "embeddings.LayerNorm": "embeddings.LayerNorm",
        **{
            f"encoder.layer.{layer}.{theirs}": f"transformer.layer.{layer}.{ours}"
            for layer in range(bert.num_hidden_layers)
            for theirs, ours in {
                "attention.self.query": "attention.q_lin",
                "attention.self.key": "attention.k_lin",
                "attention.self.value": "attention.v_lin",
                "attention.output.dense": "attention.out_lin",
                "attention.output.LayerNorm": "sa_layer_norm",
                "intermediate.dense": "ffn.lin1",
                "output.dense": "ffn.lin2",
                "output.LayerNorm": "output_layer_norm",
            }.items()
        },
    }
    for theirs, ours in names.items():
        new |= {f"{ours}.{part}": old[f"{theirs}.{part}"] for part in ("weight", "bias")}
    return _with_encoder(config, new, seed), tokenizer


def without_unused_tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> Classifier:
    """The same model without the tokens that ``texts`` do not use: other texts are then split into smaller pieces."""
    used = {token for ids in tokenizer(list(texts), truncation=True)["input_ids"] for token in ids}
    return trim_vocabulary(model, tokenizer, kept_tokens(json.loads(tokenizer.backend_tokenizer.to_str()), used))


def as_roberta(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, seed: int = 0
) -> Classifier:
    """A RoBERTa with the layers of a BERT, a byte-level BPE that is learned from ``texts``, and a new head.

    The vector of a new token starts as the mean of the vectors of the pieces into which the BERT's tokenizer splits it.
    """
    bert, old = model.config, model.base_model.state_dict()
    bpe = byte_level_bpe(texts, ROBERTA_TOKENS, tokenizer.model_max_length)
    config = RobertaConfig(
        vocab_size=len(bpe),
        max_position_embeddings=bert.max_position_embeddings + _ROBERTA_POSITION_OFFSET,
        num_hidden_layers=bert.num_hidden_layers,
        num_attention_heads=bert.num_attention_heads,
        hidden_size=bert.hidden_size,
        intermediate_size=bert.intermediate_size,
        layer_norm_eps=bert.layer_norm_eps,
        type_vocab_size=1,
        pad_token_id=bpe.pad_token_id,
        bos_token_id=bpe.bos_token_id,
        eos_token_id=bpe.eos_token_id,
        **_labels_of(bert),
    )
    positions = _positions(old)
    new = {name: weights for name, weights in old.items() if name.startswith(("encoder.", "embeddings.LayerNorm"))}
    new["embeddings.word_embeddings.weight"] = _means_of_pieces(
        old["embeddings.word_embeddings.weight"], tokenizer, bpe
    )
    new["embeddings.position_embeddings.weight"] = torch.cat([positions[:_ROBERTA_POSITION_OFFSET], positions])
    new["embeddings.token_type_embeddings.weight"] = torch.zeros(1, bert.hidden_size)
    return _with_encoder(config, new, seed), bpe


def byte_level_bpe(texts: Sequence[str], n_tokens: int, max_length: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer like RoBERTa's, learned from ``texts``; it can encode any other text too."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    backend.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=n_tokens,
            special_tokens=special,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    ends = {name: (name, backend.token_to_id(name)) for name in ("<s>", "</s>")}
    backend.post_processor = processors.RobertaProcessing(ends["</s>"], ends["<s>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=max_length,
    )


def _means_of_pieces(
    table: torch.Tensor, tokenizer: PreTrainedTokenizerBase, bpe: PreTrainedTokenizerFast
) -> torch.Tensor:
    """A vector for each token of ``bpe``: the mean of the vectors of the pieces into which ``tokenizer`` splits it."""
    special = {
        bpe.cls_token_id: tokenizer.cls_token_id,
        bpe.sep_token_id: tokenizer.sep_token_id,
        bpe.pad_token_id: tokenizer.pad_token_id,
        bpe.unk_token_id: tokenizer.unk_token_id,
        bpe.mask_token_id: tokenizer.mask_token_id,
    }
    rows = []
    for token in range(len(bpe)):
        pieces = tokenizer(bpe.decode([token]), add_special_tokens=False)["input_ids"]
        sources = [special[token]] if token in special else pieces or [tokenizer.unk_token_id]
        rows.append(table[sources].mean(dim=0))
    return torch.stack(rows)


def _positions(weights: dict[str, torch.Tensor]) -> torch.Tensor:
    """A BERT's position vectors plus the vector of the first segment, to which all tokens of a single text belong."""
    return weights["embeddings.position_embeddings.weight"] + weights["embeddings.token_type_embeddings.weight"][0]


def _labels_of(config: PretrainedConfig) -> dict[str, object]:
    return {"id2label": config.id2label, "label2id": config.label2id, "problem_type": config.problem_type}


def _with_encoder(config: PretrainedConfig, weights: dict[str, torch.Tensor], seed: int) -> PreTrainedModel:
    """A classifier with this config, these weights in its encoder, and a new head.

    Raises:
        ValueError: The weights are not exactly those of the encoder.
    """
    set_seed(seed)
    model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    report = model.base_model.load_state_dict(weights, strict=False)
    if report.missing_keys or report.unexpected_keys:
        raise ValueError(f"a {config.model_type} lacks {report.missing_keys}, has no {report.unexpected_keys}")
    return model
