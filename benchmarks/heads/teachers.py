"""Fine-tune one teacher for each gold column of a corpus: teachers of independent questions over the same texts.

    python -m benchmarks.heads.teachers
    amalgam-edge build --teacher section=runs/heads/teachers/section --corpus runs/heads/corpus.jsonl …

Half of the texts fine-tune the teachers, about a quarter is written without labels to ``RUNS/corpus.jsonl``, and the
rest, with all gold columns, to ``RUNS/test.csv``. Teachers of columns whose cells hold any number of answers have the
problem type ``multi_label_classification``. A teacher that exists is not made again. Printed is how good teachers are
on the test texts, beside always giving the commonest answer: accuracy, or micro-F1 of sigmoid teachers.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import torch
from transformers.utils import logging

from amalgam_edge.console_progress import ConsoleProgress
from amalgam_edge.inference.predict import predict_texts
from amalgam_edge.inference.torch_runner import TorchRunner
from amalgam_edge.methods.losses import weighted_binary_divergence, weighted_divergence
from amalgam_edge.methods.supervision import from_targets
from amalgam_edge.models.loading import load_classifier, load_config, load_tokenizer
from amalgam_edge.progress import Progress
from amalgam_edge.recipe.sections import TrainingSettings
from amalgam_edge.storage.staging import staged, write_text_atomically
from benchmarks.heads.questions import Question, Row, find_questions, read_rows, split
from examples.corpora import DATA, write_jsonl
from examples.teachers import TEACHER_TRAINING, NewClassifier, fit_and_save, new_bert

RUNS = Path("runs/heads")
# Few labels are set, so a sigmoid teacher first says none; it takes more updates. At 3e-4 the encoder collapsed.
SIGMOID_TRAINING = replace(TEACHER_TRAINING, epochs=6, batch_size=16)
MULTI_LABEL = "multi_label_classification"


def fine_tune(
    question: Question,
    texts: Sequence[str],
    target: np.ndarray,
    folder: Path,
    progress: Progress,
    *,
    new_classifier: NewClassifier = new_bert,
    settings: TrainingSettings = TEACHER_TRAINING,
) -> None:
    """Fine-tune a teacher of a question, and save it with its tokenizer unless the folder exists.

    Args:
        question: What it answers.
        texts: Texts that it learns from.
        target: 1 for each label that a text has, else 0, ``(n_texts, n_labels)``.
        folder: Where the teacher is saved.
        progress: Receives a step of as many updates as training takes.
        new_classifier: Makes the classifier that training starts from.
        settings: How it is trained; the seed is also that of the new head.
    """
    if folder.exists():
        return
    model, tokenizer = new_classifier(question.labels, texts, settings.seed)
    model.base_model.embeddings.requires_grad_(False)  # half of the time of an update, on a CPU
    loss = weighted_divergence
    if question.multi:
        model.config.problem_type, loss = MULTI_LABEL, weighted_binary_divergence
    title, n_updates = f"fine-tuning {question.name}", settings.n_updates(len(texts))
    with staged(folder) as part, progress.step(title, n_updates, "updates") as advance:
        fit_and_save((model, tokenizer), texts, from_targets(target), loss, part, settings, advance)


def predict(folder: Path, texts: Sequence[str]) -> np.ndarray:
    """A teacher's logits, ``(n_texts, n_labels)``."""
    tokenizer = load_tokenizer(str(folder))
    runner = TorchRunner(load_classifier(str(folder), load_config(str(folder))), sites=(), device="cpu")
    return predict_texts(runner, tokenizer, texts, max_length=tokenizer.model_max_length)


def quality(question: Question, logits: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """How good answers are, and how good it is to give every text the commonest answers.

    It is accuracy, or micro-F1 where a text may have any number of answers.

    Args:
        question: The question.
        logits: A teacher's logits, ``(n_texts, n_labels)``.
        target: The gold answers, ``(n_texts, n_labels)``.
    """
    if not question.multi:
        gold = target.argmax(axis=1)
        return float((logits.argmax(axis=1) == gold).mean()), float(np.bincount(gold).max() / len(gold))
    commonest = np.tile(np.arange(len(question.labels)) == target.sum(axis=0).argmax(), (len(target), 1))
    return micro_f1(logits > 0, target), micro_f1(commonest, target)


def micro_f1(given: np.ndarray, target: np.ndarray) -> float:
    """Micro-F1 of answers ``(n_texts, n_labels)`` of bool."""
    return float(2 * (given * target).sum() / (given.sum() + target.sum()))


def to_csv(rows: Sequence[Row]) -> str:
    """Rows as the text of a CSV file."""
    text = StringIO()
    writer = csv.DictWriter(text, [*rows[0]], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=DATA / "debian_facets.csv", help="CSV: text and gold columns")
    parser.add_argument("--columns", nargs="+", help="gold columns that get a teacher  [default: all]")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder for everything that is made")
    parser.add_argument("--threads", type=int, help="threads to compute with  [default: one per core]")
    return parser.parse_args()


def main() -> None:
    """Make the teachers, write the texts and print how good the teachers are."""
    options, progress = parse(), ConsoleProgress()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if options.threads:
        torch.set_num_threads(options.threads)
    rows = read_rows(options.corpus)
    parts = split(rows)
    questions = [q for q in find_questions(rows) if not options.columns or q.name in options.columns]
    (options.runs / "teachers").mkdir(parents=True, exist_ok=True)
    write_jsonl(options.runs / "corpus.jsonl", ({"text": row["text"]} for row in parts.corpus))
    write_text_atomically(options.runs / "test.csv", to_csv(parts.test))
    progress.begin(len(questions))
    print("| teacher | labels | kind | test | commonest answers |\n| --- | ---: | --- | ---: | ---: |")
    for question in questions:
        folder = options.runs / "teachers" / question.name
        texts = [row["text"] for row in parts.for_teachers]
        settings = SIGMOID_TRAINING if question.multi else TEACHER_TRAINING
        fine_tune(question, texts, question.target(parts.for_teachers), folder, progress, settings=settings)
        logits = predict(folder, [row["text"] for row in parts.test])
        measured, commonest = quality(question, logits, question.target(parts.test))
        kind = "sigmoid" if question.multi else "softmax"
        print(f"| {question.name} | {len(question.labels)} | {kind} | {measured:.1%} | {commonest:.1%} |", flush=True)


if __name__ == "__main__":
    main()
