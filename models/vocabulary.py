"""Trim the vocabulary of a classifier to the tokens that its texts use.

A corpus uses a small part of an encoder's vocabulary, and the embedding table is half of a small encoder. Texts that
need no other tokens are tokenized as before: WordPiece takes the longest piece in the vocabulary, BPE applies the same
merges, and Unigram finds the same best path, since the tokens that they chose are still there and no token is new.
Other texts are split into smaller pieces, at worst into characters.
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

_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")  # what BPE and Unigram fall back to


def trim_vocabulary(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, kept: np.ndarray
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Copy a classifier and its tokenizer, with the kept tokens alone.

    Args:
        model: A classifier whose embedding table has a row for each token.
        tokenizer: Its tokenizer, backed by the ``tokenizers`` library.
        kept: The ids that stay, see :func:`kept_tokens`.
    """
    small_model, small_tokenizer = copy.deepcopy(model), copy.deepcopy(tokenizer)
    trimmed = trim_tokenizer(json.loads(tokenizer.backend_tokenizer.to_str()), kept)
    small_tokenizer._tokenizer = Tokenizer.from_str(json.dumps(trimmed))
    small_model.set_input_embeddings(_select_rows(small_model.get_input_embeddings(), kept))
    for name in getattr(small_model, "other_token_tables", ()):
        setattr(small_model, name, _select_rows(getattr(small_model, name), kept))
    new_ids = _new_ids(kept)
    config = small_model.config
    config.vocab_size = len(kept)
    for name, value in config.to_dict().items():
        if name.endswith("_token_id") and isinstance(value, int):
            setattr(config, name, new_ids.get(value))
    return small_model, small_tokenizer


def _select_rows(table: torch.nn.Embedding, kept: np.ndarray) -> torch.nn.Embedding:
    rows = table.weight.detach()[torch.from_numpy(kept)].clone()
    return torch.nn.Embedding(len(rows), rows.shape[1], padding_idx=table.padding_idx, _weight=rows)


def kept_tokens(tokenizer: Mapping[str, Any], used: Collection[int], n_first: int = 0) -> np.ndarray:
    """Find the ids that stay: those in use, special tokens, single characters, and the parts that BPE merges.

    Ids up to that of the padding token stay too, so that padding keeps its id: RoBERTa counts positions from it.

    Args:
        tokenizer: The content of a tokenizer.json.
        used: The ids in use.
        n_first: How many ids from zero on stay whether in use or not; vocabularies begin with the most common tokens.

    Returns:
        The ids in ascending order, ``(n_kept,)``; the position of a token among them is its new id.

    Raises:
        AmalgamError: The kind of tokenizer is not known.
    """
    ids = token_ids(tokenizer)
    model = tokenizer["model"]
    added = {token["id"] for token in tokenizer.get("added_tokens") or []}
    padding = [t["id"] for t in tokenizer.get("added_tokens") or [] if t["content"].strip("[]<>|").lower() == "pad"]
    unknown = {model.get("unk_id"), ids.get(model.get("unk_token") or "")} - {None}
    characters = {number for token, number in ids.items() if _is_character(token, model)}
    first_ids = range(max(max(padding, default=-1) + 1, n_first))
    kept = {*used, *added, *unknown, *characters, *first_ids} & {*ids.values(), *added}
    return np.array(sorted(_with_merged_parts(kept, ids, model)), dtype=np.int64)


def _with_merged_parts(kept: set[int], ids: Mapping[str, int], model: Mapping[str, Any]) -> set[int]:
    """The kept ids and, for BPE, those of all tokens that they are merged from, step by step."""
    tokens = {number: token for token, number in ids.items()}
    parts = _merge_parts(model)
    found = set(kept)
    pending = list(kept)
    while pending:
        for part in parts.get(tokens.get(pending.pop(), ""), ()):
            if ids[part] not in found:
                found.add(ids[part])
                pending.append(ids[part])
    return found


def _new_ids(kept: np.ndarray) -> dict[int, int]:
    """The new id of each kept token, by its old one."""
    return {int(old): position for position, old in enumerate(kept)}


def trim_tokenizer(tokenizer: Mapping[str, Any], kept: np.ndarray) -> dict[str, Any]:
    """Copy a tokenizer with the tokens of these ids alone, numbered from zero.

    Args:
        tokenizer: The content of a tokenizer.json.
        kept: The ids that stay, see :func:`kept_tokens`.

    Returns:
        The content of the new tokenizer.json.
    """
    new = _new_ids(kept)
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
    """The id of each token of the tokenizer's model; added tokens that are not part of it are left out.

    Raises:
        AmalgamError: The kind of tokenizer is not known.
    """
    vocabulary = tokenizer["model"].get("vocab")
    if isinstance(vocabulary, dict):
        return vocabulary
    if isinstance(vocabulary, list):
        return {entry[0]: number for number, entry in enumerate(vocabulary)}
    raise AmalgamError(
        f"a tokenizer of the kind {tokenizer['model'].get('type')} has no vocabulary that can be trimmed"
    )


def _is_character(token: str, model: Mapping[str, Any]) -> bool:
    """Whether a token is a single character, apart from a mark of its place in a word, or a byte."""
    bare = token.removeprefix(model.get("continuing_subword_prefix") or "")
    bare = bare.removesuffix(model.get("end_of_word_suffix") or "")
    return len(bare) <= 1 or bool(_BYTE_TOKEN.fullmatch(token))


def _merge_parts(model: Mapping[str, Any]) -> dict[str, list[str]]:
    """The tokens that each token of a BPE model is merged from, in all ways that it can be."""
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
    """Put new ids into the post-processor, which adds special tokens, in place."""
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
