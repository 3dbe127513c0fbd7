"""Reading the corpora of the amalgamation benchmark: from examples/data/, from a folder of files, or from the Hub."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

from benchmarks.amalgamation.settings import LabelledCorpus, interleaved
from benchmarks.amalgamation.students import Study
from benchmarks.common.errors import UnavailableError
from benchmarks.corpora import hub
from examples import corpora

_MOST_FROM_HUB = 400  # texts per label, unless the study says otherwise


def corpus_loader(study: Study) -> Callable[[str], LabelledCorpus]:
    """A function that reads a corpus by its name, once; it raises :class:`UnavailableError` if there is none."""

    @cache
    def load(name: str) -> LabelledCorpus:
        larger: corpora.Rows = []
        domains: dict[str, str] = {}
        if study.data and (file := study.data / f"{name}.csv").exists():
            texts, labels, domains = _read_file(file)
        elif hub.is_on_hub(name):
            texts, labels = hub.read(name, study.runs / "corpora", study.most or _MOST_FROM_HUB)
        else:
            texts, labels = _read_sample(name)
            if (corpora.DATA / f"{name}_large.csv").exists():
                known = set(texts)
                larger = [row for row in zip(*corpora.load(f"{name}_large"), strict=True) if row[0] not in known]
        label_sets = corpora.TEACHERS.get(name, {}).values()
        split = corpora.split(*_at_most(texts, labels, study.most))
        order = interleaved(label_sets) if label_sets else _by_domain(labels, domains)
        return LabelledCorpus(name, split, order, larger)

    return load


def _read_file(path: Path) -> tuple[list[str], list[str], dict[str, str]]:
    """Texts, their labels, and the domain of each label that has one; texts without a label are left out."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = {row["text"]: row for row in csv.DictReader(file) if row["label"]}  # a text once
    domains = {row["label"]: row["domain"] for row in rows.values() if row.get("domain")}
    return [*rows], [row["label"] for row in rows.values()], domains


def _by_domain(labels: Iterable[str], domains: Mapping[str, str]) -> tuple[tuple[str, ...], ...]:
    """The labels in alphabetical order; those of a domain are one item."""
    items: dict[str, list[str]] = defaultdict(list)
    for label in sorted(set(labels)):
        items[domains.get(label, label)].append(label)
    return tuple(tuple(items[name]) for name in sorted(items))


def _read_sample(name: str) -> tuple[list[str], list[str]]:
    try:
        return corpora.load(name)
    except FileNotFoundError as error:
        raise UnavailableError(
            f"examples/data/{name}.csv does not exist; benchmarks/README.md says how to make it"
        ) from error


def _at_most(texts: Sequence[str], labels: Sequence[str], most: int | None) -> tuple[list[str], list[str]]:
    """The first texts of each label by their hash, at most ``most`` of each."""
    room = dict.fromkeys(labels, len(texts) if most is None else most)
    kept = []
    for text, label in sorted(zip(texts, labels, strict=True), key=lambda row: corpora.by_hash(row[0])):
        if room[label]:
            room[label] -= 1
            kept.append((text, label))
    return [text for text, _ in kept], [label for _, label in kept]
