"""A classifier without the tokens that a corpus does not use.

A classifier's corpus uses a small part of its encoder's vocabulary, and the table of embeddings is half of a small
encoder. Texts that need no other tokens are read as before: WordPiece takes the longest piece that there is, BPE
applies the merges that it applied, Unigram finds the same best path, since what they chose is still there and nothing
else has come. Other texts are read in smaller pieces, at worst in characters.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from amalgam_edge.errors import AmalgamError

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")  # what BPE and Unigram fall back to


def with_tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, kept: np.ndarray
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Copies of a classifier and its tokenizer that know the kept tokens alone.

    Args:
        model: its table of embeddings has a row a token.
        tokenizer: backed by the ``tokenizers`` library.
        kept: as :func:`kept_tokens` gives them.
    """
    small_model, small_tokenizer = copy.deepcopy(model), copy.deepcopy(tokenizer)
    trimmed = trim_tokenizer(json.loads(tokenizer.backend_tokenizer.to_str()), kept)
    small_tokenizer._tokenizer = Tokenizer.from_str(json.dumps(trimmed))
    small_model.set_input_embeddings(_with_rows(small_model.get_input_embeddings(), kept))
    for name in getattr(small_model, "other_token_tables", ()):
        setattr(small_model, name, _with_rows(getattr(small_model, name), kept))
    new = {int(old): position for position, old in enumerate(kept)}
    config = small_model.config
    config.vocab_size = len(kept)
    for name, value in config.to_dict().items():
        if name.endswith("_token_id") and isinstance(value, int):
            setattr(config, name, new.get(value))
    return small_model, small_tokenizer


def _with_rows(table: torch.nn.Embedding, kept: np.ndarray) -> torch.nn.Embedding:
    rows = table.weight.detach()[torch.from_numpy(kept)].clone()
    return torch.nn.Embedding(len(rows), rows.shape[1], padding_idx=table.padding_idx, _weight=rows)


def kept_tokens(tokenizer: Mapping[str, Any], used: Collection[int], first: int = 0) -> np.ndarray:
    """The ids that stay: those in use, special and single characters, and what others are merged from.

    Ids up to that of padding stay too, so that it keeps its own: RoBERTa counts positions from it.

    Args:
        tokenizer: the content of a tokenizer.json.
        used: ids in use.
        first: this many ids from zero stay whether in use or not; vocabularies begin with the most common tokens.

    Returns:
        Ids in ascending order, ``(n_kept,)``; a token's place among them is its new id.

    Raises:
        AmalgamError: a kind of tokenizer that is not known.
    """
    ids = token_ids(tokenizer)
    model = tokenizer["model"]
    added = {token["id"] for token in tokenizer.get("added_tokens") or []}
    padding = [t["id"] for t in tokenizer.get("added_tokens") or [] if t["content"].strip("[]<>|").lower() == "pad"]
    special = {model.get("unk_id"), ids.get(model.get("unk_token") or "")} - {None}
    small = {number for token, number in ids.items() if _is_small(token, model)}
    kept = {*used, *added, *special, *small, *range(max(padding, default=-1) + 1), *range(first)} & {
        *ids.values(),
        *added,
    }
    names = {number: token for token, number in ids.items()}
    parts = _parts(model)
    waiting = list(kept)
    while waiting:
        for part in parts.get(names.get(waiting.pop(), ""), ()):
            if ids[part] not in kept:
                kept.add(ids[part])
                waiting.append(ids[part])
    return np.array(sorted(kept), dtype=np.int64)


def trim_tokenizer(tokenizer: Mapping[str, Any], kept: np.ndarray) -> dict[str, Any]:
    """The tokenizer with the tokens of these ids alone, numbered from zero.

    Args:
        tokenizer: the content of a tokenizer.json.
        kept: as :func:`kept_tokens` gives them.
    """
    new = {int(old): position for position, old in enumerate(kept)}
    trimmed = copy.deepcopy(dict(tokenizer))
    model = trimmed["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {token: new[number] for token, number in model["vocab"].items() if number in new}
    else:
        model["vocab"] = [entry for number, entry in enumerate(model["vocab"]) if number in new]
        if model.get("unk_id") is not None:
            model["unk_id"] = new[model["unk_id"]]
    if model.get("merges"):
        vocabulary = model["vocab"]
        model["merges"] = [
            merge for merge in model["merges"] if all(t in vocabulary for t in (*_pair(merge), _merged(merge, model)))
        ]
    for token in trimmed.get("added_tokens") or []:
        token["id"] = new[token["id"]]
    if trimmed.get("padding"):
        trimmed["padding"]["pad_id"] = new[trimmed["padding"]["pad_id"]]
    _renumber_processor(trimmed.get("post_processor"), new)
    return trimmed


def token_ids(tokenizer: Mapping[str, Any]) -> dict[str, int]:
    """Each token of the model's vocabulary and its id; added tokens that are not in it are left out.

    Raises:
        AmalgamError: a kind of tokenizer that is not known.
    """
    vocabulary = tokenizer["model"].get("vocab")
    if isinstance(vocabulary, dict):
        return vocabulary
    if isinstance(vocabulary, list):
        return {entry[0]: number for number, entry in enumerate(vocabulary)}
    raise AmalgamError(
        f"a tokenizer of the kind {tokenizer['model'].get('type')} has no vocabulary that can be trimmed"
    )


def _is_small(token: str, model: Mapping[str, Any]) -> bool:
    """A character, with or without a mark of where in a word it stands, or a byte."""
    bare = token.removeprefix(model.get("continuing_subword_prefix") or "")
    bare = bare.removesuffix(model.get("end_of_word_suffix") or "")
    return len(bare) <= 1 or bool(_BYTE.fullmatch(token))


def _parts(model: Mapping[str, Any]) -> dict[str, list[str]]:
    """What each token is merged from, in all ways that there are."""
    parts: dict[str, list[str]] = {}
    for merge in model.get("merges") or []:
        parts.setdefault(_merged(merge, model), []).extend(_pair(merge))
    return parts


def _pair(merge: str | list[str]) -> list[str]:
    return merge.split(" ") if isinstance(merge, str) else merge


def _merged(merge: str | list[str], model: Mapping[str, Any]) -> str:
    first, second = _pair(merge)
    return first + second.removeprefix(model.get("continuing_subword_prefix") or "")


def _renumber_processor(processor: Any, new: Mapping[int, int]) -> None:
    """Put new ids into what adds special tokens, in place."""
    if processor is None:
        return
    for inner in processor.get("processors", []):
        _renumber_processor(inner, new)
    for token in _template_tokens(processor):
        token["ids"] = [new[number] for number in token["ids"]]
    for name in ("cls", "sep"):  # BertProcessing and RobertaProcessing
        if isinstance(processor.get(name), list):
            token, number = processor[name]
            processor[name] = [token, new[number]]


def _template_tokens(processor: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    yield from processor["special_tokens"].values() if processor.get("type") == "TemplateProcessing" else ()
