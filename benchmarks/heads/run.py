"""A student with N heads beside its N teachers: accuracy, agreement, time and size.

    python -m benchmarks.heads.teachers
    python -m benchmarks.heads.run --heads section library language
    python -m benchmarks.heads.run --heads section library language role interface use --corpus texts.jsonl --separate

The teachers and the test texts are those that ``benchmarks.heads.teachers`` makes. The student is built with ``--heads
each``; with ``--separate`` a student of each teacher alone is built too, with the same settings and texts. Teachers run
on ONNX Runtime, quantized the way its own documentation says, one after the other; everything is timed text in, labels
out, in turns, in one process. Accuracy is the share of texts with the right answer: of a sigmoid head all labels right.
Written to ``RUNS/NAMES.md`` and printed.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging

from amalgam_edge import EdgeClassifier, build
from amalgam_edge.evaluation.edge_benchmark import texts_of
from amalgam_edge.evaluation.peers import Student, open_peer
from amalgam_edge.gold import GoldAnswers, gold_answers
from amalgam_edge.heads import SOFTMAX, Head
from amalgam_edge.metrics.timing import median_call_times
from amalgam_edge.models.loading import load_saved
from amalgam_edge.reports.tables import Column, Table
from amalgam_edge.runtime.bundle import Bundle
from amalgam_edge.storage.staging import write_text_atomically
from benchmarks.heads.questions import read_rows
from benchmarks.heads.teachers import RUNS
from examples.teachers import encoder_folder

PEER = "onnxruntime int8"
BATCH = 32
TOKENS = 32

Answer = Callable[[Sequence[str]], object]


@dataclass(frozen=True)
class RunningTeacher:
    """A teacher as its users run it: ONNX Runtime, int8.

    Attributes:
        logits: Texts to logits ``(n_texts, n_labels)``.
        n_bytes: Size of its int8 file.
    """

    logits: Callable[[Sequence[str]], np.ndarray]
    n_bytes: int


def open_teacher(folder: Path, scratch: Path, threads: int) -> RunningTeacher:
    """Export and quantize a teacher as ONNX Runtime's documentation says."""
    model, tokenizer = load_saved(AutoModelForSequenceClassification, folder)
    run = open_peer(PEER, Student(model.eval(), scratch, tokenizer.pad_token_id, threads))
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_padding()
    backend.enable_truncation(128)

    def logits(texts: Sequence[str]) -> np.ndarray:
        parts = [
            run([encoding.ids for encoding in backend.encode_batch(list(texts[start : start + BATCH]))])
            for start in range(0, len(texts), BATCH)
        ]
        return np.concatenate(parts)

    return RunningTeacher(logits, (scratch / "model_quantized.onnx").stat().st_size)


def build_student(names: Sequence[str], options: argparse.Namespace) -> Bundle:
    """The student of some teachers, a head each; one that exists is not built again."""
    output = options.runs / "students" / "-".join([*names, f"{options.layers}-layers", options.corpus.stem])
    if not output.exists():
        build(
            teachers=[f"{name}={options.runs / 'teachers' / name}" for name in names],
            heads="each",
            corpus=str(options.corpus),
            evaluate=str(options.runs / "test.csv"),
            label_column=[f"{name}={name}" for name in names],
            student=encoder_folder(),
            student_layers=options.layers,
            epochs=options.epochs,
            passes=options.passes,
            threads=options.threads,
            output=str(output),
            work=str(options.runs / "work"),
        )
    return Bundle.open(output)


def right(head: Head, gold: GoldAnswers, logits: np.ndarray) -> np.ndarray:
    """Whether each answer is right, ``(n_gold,)`` of bool."""
    given = head.answers(logits[gold.rows])
    expected = gold.answers[:, None] if head.activation == SOFTMAX else gold.answers
    answered: np.ndarray = (given == expected).all(axis=1)
    return answered


def accuracy_table(
    heads: Sequence[Head],
    gold: Mapping[str, GoldAnswers],
    teachers: Mapping[str, np.ndarray],
    student: Mapping[str, np.ndarray],
    separate: Mapping[str, np.ndarray],
) -> Table:
    """Accuracy of each head beside its teacher's own, and how often both give the same answer.

    Args:
        heads: The heads.
        gold: Head → gold answers.
        teachers: Head → logits of its teacher, ``(n_texts, n_labels)``.
        student: Head → logits of the student.
        separate: Head → logits of a student of this teacher alone; empty where none was built.
    """
    rows = []
    for head in heads:
        taught, learnt = teachers[head.name], student[head.name]
        own, given = right(head, gold[head.name], taught), right(head, gold[head.name], learnt)
        cells = [own.mean(), given.mean(), given.mean() - own.mean(), _agreement(head, taught, learnt)]
        if separate:
            alone = separate[head.name]
            cells += [right(head, gold[head.name], alone).mean(), _agreement(head, taught, alone)]
        rows.append((head.name, "one" if head.activation == SOFTMAX else "any", len(head), len(own), cells))
    means = np.mean([cells for *_, cells in rows], axis=0)
    titles = ["teacher", "head", "points", "agreement", *(["alone", "agreement alone"] if separate else [])]
    return Table(
        (
            Column("head", numeric=False),
            Column("labels", numeric=False),
            Column("texts"),
            *(Column(title) for title in titles),
        ),
        (
            *((name, f"{kind} of {n}", str(texts), *_shown(cells)) for name, kind, n, texts, cells in rows),
            ("mean", "", "", *_shown(means)),
        ),
    )


def _agreement(head: Head, one: np.ndarray, other: np.ndarray) -> float:
    return float((head.answers(one) == head.answers(other)).all(axis=1).mean())


def _shown(cells: Sequence[float]) -> list[str]:
    return [f"{100 * cell:+.1f}" if position == 2 else f"{cell:.1%}" for position, cell in enumerate(cells)]


def time_table(contenders: Mapping[str, Answer], sizes: Mapping[str, int], cells: Mapping[str, Sequence[str]]) -> Table:
    """Milliseconds a text and megabytes of each contender, and how many times the first one's speed that is."""
    taken = {}
    for name, texts in cells.items():
        calls = {contender: partial(answer, texts) for contender, answer in contenders.items()}
        seconds = median_call_times(calls)
        taken[name] = {contender: 1e3 * value / len(texts) for contender, value in seconds.items()}
    first = next(iter(contenders))
    return Table(
        (Column("ms a text", numeric=False), *(Column(name) for name in cells), Column("MB")),
        tuple(
            (
                name,
                *(f"{column[name]:.2f} ({column[first] / column[name]:.1f}×)" for column in taken.values()),
                f"{sizes[name] / 1e6:.1f}",
            )
            for name in contenders
        ),
    )


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", nargs="+", required=True, help="names of teachers below RUNS/teachers")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of teachers and students")
    parser.add_argument("--corpus", type=Path, help="unlabeled texts  [default: RUNS/corpus.jsonl]")
    parser.add_argument("--layers", type=int, default=3, help="layers of the student")
    parser.add_argument("--epochs", type=int, default=5, help="passes of training over the corpus")
    parser.add_argument("--passes", type=int, default=2, help="dropout passes; the target of one teacher reads none")
    parser.add_argument("--threads", type=int, default=1, help="threads to compute with")
    parser.add_argument("--separate", action="store_true", help="build a student of each teacher alone, too")
    options = parser.parse_args()
    options.corpus = options.corpus or options.runs / "corpus.jsonl"
    return options


def main() -> None:
    """Build, measure, print."""
    options = parse()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    rows = read_rows(options.runs / "test.csv")
    texts = [row["text"] for row in rows]
    bundle = build_student(options.heads, options)
    heads = bundle.heads
    alone = {name: build_student([name], options) for name in options.heads} if options.separate else {}
    classifier = EdgeClassifier(bundle, threads=options.threads)
    classifiers = {name: EdgeClassifier(own, threads=options.threads) for name, own in alone.items()}
    gold = {name: gold_answers(heads[name], [row[name] for row in rows], may_lack=True) for name in heads.names}
    with ExitStack() as stack:
        teachers = {}
        for name in options.heads:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="amalgam-heads-")))
            shutil.copy(options.runs / "teachers" / name / "tokenizer.json", scratch)
            teachers[name] = open_teacher(options.runs / "teachers" / name, scratch, options.threads)
        logits = dict(zip(heads.names, heads.split(classifier.logits(texts)), strict=True))
        taught = {name: teacher.logits(texts) for name, teacher in teachers.items()}
        separate = {name: own.logits(texts) for name, own in classifiers.items()}
        tokenizer = Tokenizer.from_file(str(bundle.folder / "tokenizer.json"))
        tokenizer.no_padding()
        cells = {
            f"1 text of {TOKENS} tokens": texts_of(tokenizer, 1, TOKENS),
            f"{BATCH} of {TOKENS} tokens": texts_of(tokenizer, BATCH, TOKENS),
            "the test texts": texts,
        }
        n = len(teachers)
        contenders: dict[str, Answer] = {
            f"{n} teachers, {PEER}": lambda batch: [teacher.logits(batch) for teacher in teachers.values()],
            f"student, {n} heads": classifier,
        }
        sizes = {
            f"{n} teachers, {PEER}": sum(teacher.n_bytes for teacher in teachers.values()),
            f"student, {n} heads": bundle.size(bundle.model_name()),
        }
        if classifiers:
            contenders[f"{n} students"] = lambda batch: [own(batch) for own in classifiers.values()]
            sizes[f"{n} students"] = sum(own.size(own.model_name()) for own in alone.values())
        tables = [accuracy_table([*heads], gold, taught, logits, separate), time_table(contenders, sizes, cells)]
    report = "\n\n".join(table.to_markdown() for table in tables)
    write_text_atomically(options.runs / f"{'-'.join(options.heads)}.md", f"{report}\n")
    print(report)


if __name__ == "__main__":
    main()
