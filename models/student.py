"""Students: an encoder cut to fewer layers, under a new classification head."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from optimum.utils import NormalizedConfigManager
from transformers import (
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)

from amalgam_edge.errors import AmalgamError
from amalgam_edge.models.loading import load_config, load_encoder


def build_student(
    checkpoint: str, labels: Sequence[str], *, layers: int | None = None, max_length: int = 128, seed: int = 0
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Build a classifier on some layers of the encoder of a checkpoint; its head is new.

    Args:
        checkpoint: The folder, or the name on the Hub, of any encoder, with a head or without.
        labels: The names of the label space.
        layers: How many layers of the encoder to keep, see :func:`kept_layers`; all if None.
        max_length: The longest input in tokens, lowered to what the encoder can take; the tokenizer truncates to it.
        seed: The seed of the head's initial weights.

    Returns:
        The student and its tokenizer.

    Raises:
        AmalgamError: There is no such model, or it has fewer layers.
    """
    config = load_config(checkpoint)
    depth_name, depth = _depth(config)
    keep = kept_layers(depth, depth if layers is None else layers)
    set_seed(seed)  # the encoder may have new weights too: a pooler, where the checkpoint has none
    encoder, tokenizer = load_encoder(checkpoint, config, max_length)

    cut = _cut_config(config, depth_name, depth, keep)
    cut.id2label = dict(enumerate(labels))
    cut.label2id = {label: position for position, label in enumerate(labels)}
    cut.problem_type = "single_label_classification"
    set_seed(seed)
    model = AutoModelForSequenceClassification.from_config(cut, dtype=torch.float32)
    weights = _renumber(encoder.state_dict(), _layer_list(encoder, depth), keep)
    report = model.base_model.load_state_dict(weights, strict=False)
    if report.missing_keys:
        raise AmalgamError(f"{checkpoint}: its encoder cannot be taken over (no {report.missing_keys[0]})")
    return model, tokenizer


def kept_layers(depth: int, keep: int) -> tuple[int, ...]:
    """Choose ``keep`` of ``depth`` layers, evenly spaced, the first and the last among them.

    Returns:
        The positions of the kept layers, in ascending order.

    Raises:
        AmalgamError: ``keep`` is less than one, or more than there are layers.
    """
    if not 1 <= keep <= depth:
        raise AmalgamError(f"--student-layers {keep}: the student's checkpoint has {depth} layers")
    return tuple(int(layer) for layer in np.linspace(0, depth - 1, keep).round())


def n_layers(config: PretrainedConfig) -> int:
    """The number of layers of a model with this config.

    Raises:
        AmalgamError: It is not known for the architecture.
    """
    return _depth(config)[1]


def _depth(config: PretrainedConfig) -> tuple[str, int]:
    """The config's name for its number of layers, and that number."""
    try:
        normalized = NormalizedConfigManager.get_normalized_config_class(config.model_type)(config)
        return normalized.NUM_LAYERS, normalized.num_layers
    except (KeyError, AttributeError) as error:
        raise AmalgamError(f"a {config.model_type} cannot be a student: its number of layers is not known") from error


def _cut_config(config: PretrainedConfig, depth_name: str, depth: int, keep: Sequence[int]) -> PretrainedConfig:
    """The config with fewer layers; lists with an entry for each layer, as ModernBERT's layer types, are cut alike."""
    cut = config.to_dict()
    for key, value in cut.items():
        if isinstance(value, list) and len(value) == depth and key.startswith("layer"):
            cut[key] = [value[layer] for layer in keep]
    return type(config).from_dict({**cut, depth_name: len(keep)})


def _layer_list(encoder: PreTrainedModel, depth: int) -> str | None:
    """The name of the module list that holds the layers; None where layers share one set of weights (ALBERT)."""
    for name, module in encoder.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == depth:
            return name
    if getattr(encoder.config, "num_hidden_groups", None):
        return None
    raise AmalgamError(f"a {encoder.config.model_type} cannot be a student: its layers were not found")


def _renumber(weights: dict[str, Any], layer_list: str | None, keep: Sequence[int]) -> dict[str, Any]:
    """Leave out the weights of layers that are not kept, and number the other layers from zero."""
    if layer_list is None:
        return weights
    position = {layer: new for new, layer in enumerate(keep)}
    pattern = re.compile(re.escape(layer_list) + r"\.(\d+)\.(.+)")
    renumbered = {}
    for name, tensor in weights.items():
        layer = pattern.fullmatch(name)
        if layer is None:
            renumbered[name] = tensor
        elif int(layer[1]) in position:
            renumbered[f"{layer_list}.{position[int(layer[1])]}.{layer[2]}"] = tensor
    return renumbered
