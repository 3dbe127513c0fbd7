"""How fast a bundle answers beside what its student could be run with instead: text in, label out, one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from tokenizers import Tokenizer

from amalgam_edge.errors import AmalgamError
from amalgam_edge.evaluation.peers import Run, open_peer, trained_student
from amalgam_edge.metrics.timing import BUNDLE_PREFIX, WorkloadTiming, median_call_times
from amalgam_edge.progress import Progress
from amalgam_edge.runtime import Bundle, EdgeClassifier
from amalgam_edge.runtime.bundle import TOKENIZER
from amalgam_edge.runtime.tokens import read_tokenizer

BATCH = 32
SHAPES = ((1, 16), (1, 64), (BATCH, 16), (BATCH, 64))  # texts, tokens

Classify = Callable[[Sequence[str]], Sequence[object]]


def benchmark(
    bundle: Bundle,
    peers: Sequence[str],
    progress: Progress,
    *,
    corpus: Sequence[str] = (),
    threads: int = 1,
    rounds: int = 7,
    seconds: float = 0.4,
) -> list[WorkloadTiming]:
    """Time every precision of a bundle and its peers, side by side.

    Args:
        bundle: with the torch student, if there are peers.
        peers: names of :data:`amalgam_edge.evaluation.peers.PEERS`.
        progress: told of each step.
        corpus: texts of mixed lengths, for a cell of their own; peers run them in batches of 32, in the order given.
        threads: that all compute with.
        rounds: how many turns each contender gets.
        seconds: how long a turn lasts.

    Raises:
        AmalgamError: a peer cannot be had, or labels a text otherwise than the student does.
    """
    with _torch_threads(threads):
        return _benchmark(bundle, peers, progress, corpus, threads, rounds, seconds)


def _benchmark(
    bundle: Bundle,
    peers: Sequence[str],
    progress: Progress,
    corpus: Sequence[str],
    threads: int,
    rounds: int,
    seconds: float,
) -> list[WorkloadTiming]:
    tokenizer = read_tokenizer(bundle.read(TOKENIZER))
    tokenizer.no_padding()
    tokenizer.enable_truncation(bundle.manifest.max_length)
    contenders: dict[str, Classify] = {
        f"{BUNDLE_PREFIX} {precision}": EdgeClassifier(bundle, precision=precision, threads=threads, abstain=0)
        for precision in bundle.available_precisions()
    }
    runs: dict[str, Run] = {}
    if peers:
        title = "converting the student for its peers"
        with progress.step(title, len(peers), "peers") as advance, trained_student(bundle, threads) as student:
            for name in peers:
                runs[name] = open_peer(name, student)
                advance(1)
        contenders |= {name: _classify(run, tokenizer, bundle.labels) for name, run in runs.items()}
    cells = [(f"{n}×{tokens}", texts_of(tokenizer, n, tokens)) for n, tokens in SHAPES]
    if corpus:
        cells.append(("corpus", list(corpus)))
        _check(runs, tokenizer, bundle, corpus)
    measured = []
    with progress.step("timing", len(cells), "cells") as advance:
        for name, texts in cells:
            calls = {contender: _bind(classify, texts) for contender, classify in contenders.items()}
            measured.append(WorkloadTiming(name, len(texts), median_call_times(calls, rounds=rounds, seconds=seconds)))
            advance(1)
    return measured


def texts_of(tokenizer: Tokenizer, n_texts: int, n_tokens: int, seed: int = 0) -> list[str]:
    """Texts of exactly so many tokens, marks at both ends included, of words that are one token each.

    Raises:
        AmalgamError: the tokenizer has no such words.
    """
    marks = len(tokenizer.encode("").ids)
    generator = np.random.default_rng(seed)
    known = sorted(token.lstrip("Ġ▁") for token in tokenizer.get_vocab())
    words = [word for word in known if word.isalpha() and word.isascii() and word.islower() and len(word) > 2]
    generator.shuffle(words)
    single = [word for word in words[:4000] if len(tokenizer.encode(f"{word} {word}").ids) == marks + 2]
    if not single:
        raise AmalgamError("no word of this tokenizer is a token by itself")
    texts = [" ".join(generator.choice(single, n_tokens - marks)) for _ in range(n_texts)]
    if any(len(tokenizer.encode(text).ids) != n_tokens for text in texts):
        raise AmalgamError(f"texts of {n_tokens} tokens cannot be made with this tokenizer")
    return texts


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _classify(run: Run, tokenizer: Tokenizer, labels: Sequence[str]) -> Classify:
    def classify(texts: Sequence[str]) -> list[str]:
        found: list[str] = []
        for batch in _batches(texts):
            ids = [encoding.ids for encoding in tokenizer.encode_batch(batch)]
            found.extend(labels[best] for best in run(ids).argmax(axis=1))
        return found

    return classify


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(texts), BATCH):
        yield list(texts[start : start + BATCH])


def _bind(classify: Classify, texts: Sequence[str]) -> Callable[[], object]:
    return lambda: classify(texts)


def _check(runs: Mapping[str, Run], tokenizer: Tokenizer, bundle: Bundle, corpus: Sequence[str]) -> None:
    """A peer that answers otherwise would be compared in vain; int8 may differ a little."""
    ids = [encoding.ids for encoding in tokenizer.encode_batch(list(corpus[:BATCH]))]
    nearest = "fp32" if "fp32" in bundle.available_precisions() else bundle.default_precision  # to the torch student
    expected = EdgeClassifier(bundle, precision=nearest).logits(corpus[:BATCH]).argmax(axis=1)
    for name, run in runs.items():
        agreement = float((run(ids).argmax(axis=1) == expected).mean())
        if agreement < (0.75 if "int8" in name else 0.95):
            raise AmalgamError(f"{name} gives other labels than the student to {1 - agreement:.0%} of the texts")
