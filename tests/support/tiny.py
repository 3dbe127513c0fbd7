"""Tiny models with random weights and a tiny tokenizer, in place of models from a hub."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerFast

ARCHITECTURES = (
    "bert",
    "distilbert",
    "roberta",
    "xlm-roberta",
    "mpnet",
    "electra",
    "albert",
    "camembert",
    "deberta-v2",
    "modernbert",
)

TEXTS = (
    "a small tool that draws maps of the night sky",
    "chess",
    "plays old music files and shows their titles",
    "converts images between forty formats, quickly",
    "a server for mail, news and calendars 📬",
    "fonts for mathematics",
    "solves sparse linear systems on many cores",
    "watch the network and list who talks to whom",
    "Ein Spiel über Züge und Brücken",
    "reads text aloud",
    "a racing game with ice, snow and penguins",
    "backs up a disk to another disk at night",
    "edit sound: cut, fade, mix, filter and save",
    "x",
    "a library to count words",
    "猫の写真を整理する",
)

SPECIAL_TOKENS = ("[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]")
MAX_POSITIONS = 64

_SIZE: dict[str, Any] = {
    "hidden_size": 32,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": MAX_POSITIONS,
}
_EXTRA: dict[str, dict[str, Any]] = {
    "distilbert": {"dim": 32, "n_heads": 2, "hidden_dim": 64},
    "electra": {"embedding_size": 16},
    "albert": {"embedding_size": 16},
    "roberta": {"type_vocab_size": 1},
    "xlm-roberta": {"type_vocab_size": 1},
    "camembert": {"type_vocab_size": 1},
    "deberta-v2": {
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 16,
        "max_relative_positions": MAX_POSITIONS,
        "norm_rel_ebd": "layer_norm",
        "pooler_hidden_size": 32,
    },
    "modernbert": {"global_attn_every_n_layers": 3, "local_attention": 16},
}


def make_tokenizer(texts: Sequence[str] = TEXTS) -> PreTrainedTokenizerFast:
    """A byte-level BPE over a few texts; every other text can be spelled with it too."""
    backend = Tokenizer(models.BPE(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    marks = [(name, backend.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=marks
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=1000,
    )


def make_classifier(
    folder: str | Path,
    labels: Sequence[str],
    *,
    architecture: str = "bert",
    seed: int = 0,
    dropout: float = 0.1,
    layers: int = 2,
    tokenizer: PreTrainedTokenizerFast | None = None,
    **config: Any,
) -> Path:
    """Save a random classifier as safetensors, with its tokenizer; returns the folder."""
    tokenizer = tokenizer or make_tokenizer()
    model = random_classifier(
        labels, architecture=architecture, seed=seed, dropout=dropout, layers=layers, tokenizer=tokenizer, **config
    )
    folder = Path(folder)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def random_classifier(
    labels: Sequence[str],
    *,
    architecture: str,
    seed: int,
    dropout: float,
    layers: int,
    tokenizer: PreTrainedTokenizerFast,
    **config: Any,
) -> PreTrainedModel:
    """A classifier with random weights whose most likely class differs from text to text, in evaluation mode.

    Args:
        labels: The names of its classes.
        architecture: One of :data:`ARCHITECTURES`.
        seed: The seed of its weights.
        dropout: The probability of every dropout.
        layers: The number of layers.
        tokenizer: The tokenizer, for the size of the vocabulary and the special tokens.
        config: Other entries of the config.
    """
    settings = AutoConfig.for_model(
        architecture,
        **{
            **_SIZE,
            ("n_layers" if architecture == "distilbert" else "num_hidden_layers"): layers,
            "vocab_size": len(tokenizer),
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.cls_token_id,
            "eos_token_id": tokenizer.sep_token_id,
            "cls_token_id": tokenizer.cls_token_id,
            "sep_token_id": tokenizer.sep_token_id,
            "id2label": dict(enumerate(labels)),
            "label2id": {name: k for k, name in enumerate(labels)},
            **_EXTRA.get(architecture, {}),
        },
    )
    for key, value in settings.to_dict().items():
        if "drop" in key and isinstance(value, (int, float)) and not isinstance(value, bool):
            setattr(settings, key, dropout)
    for key, value in config.items():
        setattr(settings, key, value)
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_config(settings, attn_implementation="eager", dtype=torch.float32)
    spread_weights(model, seed)
    model.eval()
    centre_logits(model, padded(tokenizer, TEXTS))
    return model


def spread_weights(model: torch.nn.Module, seed: int) -> None:
    """Draw weights far larger than a fresh model's, so that logits differ clearly from text to text."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight.normal_(0.0, 2.5 / math.sqrt(module.in_features), generator=generator)
                if module.bias is not None:
                    module.bias.normal_(0.0, 0.1, generator=generator)
            elif isinstance(module, torch.nn.Embedding):
                module.weight.normal_(0.0, 1.0, generator=generator)


def centre_logits(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> None:
    """Shift the head's bias so that no class wins everywhere."""
    heads = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m.out_features == model.config.num_labels]
    with torch.no_grad():
        heads[-1].bias -= model(**inputs).logits.mean(dim=0)


def padded(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], length: int | None = None
) -> dict[str, torch.Tensor]:
    """Token ids and attention mask of some texts, padded on the right to the longest one or to ``length``."""
    padding = "longest" if length is None else "max_length"
    encoded = tokenizer(
        list(texts), padding=padding, truncation=True, max_length=length or 48, return_tensors="pt",
        return_token_type_ids=False,
    )  # fmt: skip
    return {name: encoded[name] for name in ("input_ids", "attention_mask")}
