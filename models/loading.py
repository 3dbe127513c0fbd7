"""Reading transformers checkpoints, and saying plainly what is wrong with one."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from amalgam_edge.errors import AmalgamError, first_line
from amalgam_edge.models.checkpoints import looks_like_a_folder

LONGEST_SANE_LENGTH = 100_000  # tokenizers without a limit report 1e30
_SMALLEST_VOCABULARY = 16  # transformers makes up a few special tokens where a checkpoint has no tokenizer
_MPNET_PADDING = 1  # fixed in its code, whatever its config says


def load_config(checkpoint: str, **options: Any) -> PretrainedConfig:
    """Read a checkpoint's config from a folder or the Hub.

    Raises:
        AmalgamError: there is no such model.
    """
    if not Path(checkpoint).exists() and looks_like_a_folder(checkpoint):
        raise AmalgamError(f"{checkpoint}: no such folder")
    try:
        return AutoConfig.from_pretrained(checkpoint, **options)
    except (OSError, ValueError, KeyError) as error:
        raise not_a_model(checkpoint, error) from error


def load_tokenizer(checkpoint: str) -> PreTrainedTokenizerBase:
    """Read a checkpoint's tokenizer, set to pad on the right.

    Raises:
        AmalgamError: it has none, or none backed by the ``tokenizers`` library.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise AmalgamError(f"{checkpoint}: no tokenizer that can be read ({first_line(error)})") from error
    if not tokenizer.is_fast:
        raise AmalgamError(f"{checkpoint}: its tokenizer has no tokenizer.json; save it once as a fast tokenizer")
    if len(tokenizer) < _SMALLEST_VOCABULARY:
        raise AmalgamError(f"{checkpoint}: no tokenizer in it; save the model's own beside it")
    if tokenizer.pad_token is None:
        raise AmalgamError(f"{checkpoint}: its tokenizer has no padding token; set pad_token and save it again")
    tokenizer.padding_side = "right"
    return tokenizer


def not_a_model(checkpoint: str, error: Exception) -> AmalgamError:
    """The error for a checkpoint that cannot be read."""
    path = Path(checkpoint)
    if path.is_dir():
        reason = first_line(error) if (path / "config.json").exists() else "it has no config.json"
        return AmalgamError(f"{checkpoint}: not a transformers model folder ({reason})")
    return AmalgamError(f"{checkpoint}: neither a folder here nor a model that can be had from the Hub")


def longest_input(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int:
    """The longest input in tokens that both the tokenizer and the position table allow."""
    limits = [tokenizer.model_max_length]
    positions = getattr(config, "max_position_embeddings", None)
    if positions:
        # RoBERTa's position ids begin after the padding index, so that many rows of its table are never reached.
        padding = _MPNET_PADDING if config.model_type == "mpnet" else config.pad_token_id or 0
        offset = padding + 1 if config.model_type in _POSITIONS_AFTER_PADDING else 0
        limits.append(positions - offset)
    return min(limit for limit in [*limits, LONGEST_SANE_LENGTH] if limit > 0)


_POSITIONS_AFTER_PADDING = frozenset({"roberta", "xlm-roberta", "camembert", "mpnet", "xlm-roberta-xl", "xmod"})


def fingerprint(model: Any, tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 over a model's tensors, its config and its tokenizer: equal wherever it predicts the same."""
    content = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        content.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        content.update(tensor.detach().cpu().contiguous().float().numpy().tobytes())
    content.update(repr(sorted(_predictive(model.config.to_dict()).items(), key=str)).encode())
    content.update(tokenizer.backend_tokenizer.to_str().encode())
    return content.hexdigest()


def _predictive(config: dict[str, Any]) -> dict[str, Any]:
    """A config without what does not bear on predictions."""
    unrelated = {"_name_or_path", "transformers_version", "architectures", "torch_dtype", "dtype"}
    return {key: value for key, value in config.items() if key not in unrelated}


def load_encoder(
    checkpoint: str, config: PretrainedConfig, max_length: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The encoder of a checkpoint in float32, and its tokenizer, which cuts on the right as the edge does.

    Args:
        checkpoint: folder or Hub name.
        config: of it.
        max_length: the longest input in tokens, cut to what the encoder can take; becomes the tokenizer's.

    Raises:
        AmalgamError: no such model.
    """
    try:
        encoder = AutoModel.from_pretrained(checkpoint, dtype=torch.float32, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise not_a_model(checkpoint, error) from error
    tokenizer = load_tokenizer(checkpoint)
    tokenizer.truncation_side = "right"
    tokenizer.model_max_length = min(max_length, longest_input(config, tokenizer))
    return encoder, tokenizer
