"""Read transformers checkpoints safely, and say plainly what is wrong with one that cannot be read.

This is the only module of the package that calls ``from_pretrained`` of transformers; :func:`from_checkpoint` makes
that safe whoever made the checkpoint. ``use_safetensors`` refuses pickled weights, which could run code when they are
read, ``trust_remote_code=False`` refuses, instead of asking at the terminal, to run Python files of the checkpoint, and
what a checkpoint may name otherwise is looked at before: kernels of the Hub, which are code too, and files of weights.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import cached_file

from amalgam_edge.errors import AmalgamError, first_line
from amalgam_edge.models.checkpoints import looks_like_a_folder
from amalgam_edge.storage.json_text import read_json
from amalgam_edge.storage.record_fields import name_fault

LONGEST_SANE_LENGTH = 100_000  # tokenizers without a limit report 1e30
_SMALLEST_VOCABULARY = 16  # transformers makes up a few special tokens where a checkpoint has no tokenizer
_MPNET_PADDING = 1  # fixed in its code, whatever its config says
_POSITIONS_AFTER_PADDING = frozenset({"roberta", "xlm-roberta", "camembert", "mpnet", "xlm-roberta-xl", "xmod"})

_NO_CODE: Mapping[str, Any] = MappingProxyType({"trust_remote_code": False})
_SAFE_WEIGHTS: Mapping[str, Any] = MappingProxyType({**_NO_CODE, "use_safetensors": True, "dtype": torch.float32})
_CONFIG, _WEIGHTS_INDEX = "config.json", "model.safetensors.index.json"
_LONGEST_DOCUMENT = 64 * 2**20  # bytes
_CODE_IN_CONFIG = re.compile("(attn|experts)_implementation")  # entries that may name kernels of the Hub
_CODE_REMEDY = "needs custom code, which is never run; save it as a model of an architecture of transformers"


def from_checkpoint(kind: Any, checkpoint: str | Path, **options: Any) -> Any:
    """What ``kind.from_pretrained`` reads from a checkpoint: safetensors alone, in float32, and no code.

    Args:
        kind: A class of models of transformers, or one of its ``Auto`` classes.
        checkpoint: A folder, or a name on the Hub.
        options: More arguments of ``from_pretrained``.

    Raises:
        AmalgamError: The checkpoint names code, weights outside of itself, or files that are no safetensors.
        OSError, ValueError, RuntimeError: As transformers raises them.
    """
    _check_files(str(checkpoint))
    return kind.from_pretrained(str(checkpoint), **_SAFE_WEIGHTS, **options)


def load_saved(kind: Any, folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model that this project saved in a folder, and its tokenizer, with the settings that they were saved with.

    Args:
        kind: The class of the model.
        folder: The folder.

    Raises:
        AmalgamError: They cannot be read.
    """
    try:
        return from_checkpoint(kind, folder), AutoTokenizer.from_pretrained(str(folder), **_NO_CODE)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise AmalgamError(f"{folder}: the student's weights cannot be read ({first_line(error)})") from error


def load_config(checkpoint: str) -> PretrainedConfig:
    """Read a checkpoint's config from a folder or the Hub.

    Raises:
        AmalgamError: There is no such model.
    """
    if not Path(checkpoint).exists() and looks_like_a_folder(checkpoint):
        raise AmalgamError(f"{checkpoint}: no such folder")
    try:
        _check_files(checkpoint)
        return AutoConfig.from_pretrained(checkpoint, **_NO_CODE)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _not_a_model(checkpoint, error) from error


def load_tokenizer(checkpoint: str) -> PreTrainedTokenizerBase:
    """Read a checkpoint's tokenizer, set to pad on the right.

    Raises:
        AmalgamError: It has none, or none backed by the ``tokenizers`` library.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint, **_NO_CODE)
    except (OSError, ValueError, KeyError, ImportError) as error:
        if _asks_for_code(error):
            raise AmalgamError(f"{checkpoint}: its tokenizer {_CODE_REMEDY}") from error
        raise AmalgamError(f"{checkpoint}: no tokenizer that can be read ({first_line(error)})") from error
    if not tokenizer.is_fast:
        raise AmalgamError(f"{checkpoint}: its tokenizer has no tokenizer.json; save it once as a fast tokenizer")
    if len(tokenizer) < _SMALLEST_VOCABULARY:
        raise AmalgamError(f"{checkpoint}: no tokenizer in it; save the model's own beside it")
    if tokenizer.pad_token is None:
        raise AmalgamError(f"{checkpoint}: its tokenizer has no padding token; set pad_token and save it again")
    tokenizer.padding_side = "right"
    return tokenizer


def load_classifier(checkpoint: str, config: PretrainedConfig) -> PreTrainedModel:
    """Read a fine-tuned sequence classifier in float32, with attention made of plain operations.

    Args:
        checkpoint: A folder, or a name on the Hub.
        config: The checkpoint's config, possibly with other dropout probabilities.

    Raises:
        AmalgamError: There is no such model, its weights are pickled, or it has no fine-tuned head.
    """
    try:
        model, report = from_checkpoint(
            AutoModelForSequenceClassification,
            checkpoint,
            config=config,
            attn_implementation="eager",
            output_loading_info=True,
        )
    except (OSError, ValueError) as error:
        if list(Path(checkpoint).glob("*.bin")) and not list(Path(checkpoint).glob("*.safetensors")):
            raise AmalgamError(
                f"{checkpoint}: only pickled weights (.bin), which are never loaded: save it again as safetensors"
            ) from error
        raise _not_a_model(checkpoint, error) from error
    except RuntimeError as error:
        raise AmalgamError(f"{checkpoint}: weights and config do not fit ({first_line(error)})") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise AmalgamError(f"{checkpoint}: no fine-tuned classifier, its weights lack {missing[0]}")
    return model


def load_encoder(
    checkpoint: str, config: PretrainedConfig, max_length: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Read the encoder of a checkpoint in float32, and its tokenizer, which truncates on the right as the edge does.

    Args:
        checkpoint: A folder, or a name on the Hub.
        config: The checkpoint's config.
        max_length: The longest input in tokens, lowered to what the encoder can take; the tokenizer truncates to it.

    Raises:
        AmalgamError: There is no such model.
    """
    try:
        encoder = from_checkpoint(AutoModel, checkpoint)
    except (OSError, ValueError) as error:
        raise _not_a_model(checkpoint, error) from error
    tokenizer = load_tokenizer(checkpoint)
    tokenizer.truncation_side = "right"
    tokenizer.model_max_length = min(max_length, longest_input(config, tokenizer))
    return encoder, tokenizer


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


def fingerprint(model: Any, tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 over a model's tensors, its config and its tokenizer: equal for models that predict the same."""
    content = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        content.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        content.update(tensor.detach().cpu().contiguous().float().numpy().tobytes())
    content.update(repr(sorted(_predictive_settings(model.config.to_dict()).items(), key=str)).encode())
    content.update(tokenizer.backend_tokenizer.to_str().encode())
    return content.hexdigest()


def _predictive_settings(config: dict[str, Any]) -> dict[str, Any]:
    """A config without the entries that do not change predictions."""
    unrelated = {"_name_or_path", "transformers_version", "architectures", "torch_dtype", "dtype"}
    return {key: value for key, value in config.items() if key not in unrelated}


def _not_a_model(checkpoint: str, error: Exception) -> AmalgamError:
    """The error for a checkpoint that cannot be read."""
    if _asks_for_code(error):
        return AmalgamError(f"{checkpoint}: {_CODE_REMEDY}")
    path = Path(checkpoint)
    if path.is_dir():
        reason = first_line(error) if (path / "config.json").exists() else "it has no config.json"
        return AmalgamError(f"{checkpoint}: not a transformers model folder ({reason})")
    return AmalgamError(f"{checkpoint}: neither a folder here nor a model that can be had from the Hub")


def _asks_for_code(error: Exception) -> bool:
    """Whether transformers refused a checkpoint since it was not allowed to run the Python files in it."""
    return "trust_remote_code" in str(error) or "custom code" in str(error)


def _check_files(checkpoint: str) -> None:
    """Refuse a checkpoint that names code, or weights that are no safetensors beside its other files.

    Raises:
        AmalgamError: The checkpoint does.
        OSError, ValueError: Its files cannot be had from the Hub.
    """
    if _names_kernels(_read_document(checkpoint, _CONFIG)):
        raise AmalgamError(f"{checkpoint}: {_CODE_REMEDY}")
    index = _read_document(checkpoint, _WEIGHTS_INDEX)
    if index is None:
        return
    names = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise AmalgamError(f"{checkpoint}: {_WEIGHTS_INDEX} is damaged; save the model again")
    wrong = next((name for name in names.values() if name_fault(name) or not name.endswith(".safetensors")), None)
    if wrong is not None:
        raise AmalgamError(
            f"{checkpoint}: {_WEIGHTS_INDEX} names {wrong!r}; only safetensors beside it are read: save the model again"
        )


def _read_document(checkpoint: str, name: str) -> Any:
    """The JSON in a file of a checkpoint; None where there is no such file."""
    found = cached_file(checkpoint, name, _raise_exceptions_for_missing_entries=False)
    try:
        return None if found is None else read_json(Path(found), _LONGEST_DOCUMENT)
    except AmalgamError as error:
        raise AmalgamError(f"{checkpoint}: {name} cannot be read ({error}); save the model again") from error


def _names_kernels(config: Any) -> bool:
    """Whether a config, or one inside of it, names kernels of the Hub for its attention or its experts."""
    waiting = [config]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            waiting += value.values()
            if any("/" in str(entry) for name, entry in value.items() if _CODE_IN_CONFIG.search(name)):
                return True
    return False
