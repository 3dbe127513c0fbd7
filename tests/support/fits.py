"""The same fits in one process and in several. Run as a program, it is what each of several processes runs."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from transformers import PreTrainedModel

from amalgam_edge.methods import METHODS, MethodSettings, Shapes, TeacherSignals, weighted_divergence
from amalgam_edge.methods.supervision import Supervision
from amalgam_edge.training.fitting import TrainingSettings, fit
from amalgam_edge.training.supervised_texts import SupervisedTexts
from tests.support import tiny

SHAPES = Shapes(columns=((0, 1), (1, 2)), teacher_widths=(3, 5), student_width=32)
METHOD_NAMES = ("muka-soft", "uhc", "cfl", "dfa")
# 17 texts in batches of 8 leave a batch of one: of two processes, one has no text in it.
SETTINGS = TrainingSettings(epochs=2, batch_size=8, learning_rate=1e-3, seed=1, device="cpu")


def texts(n_texts: int, seed: int) -> SupervisedTexts:
    """Texts of several lengths, with weights that differ by far more than the lengths do."""
    rng = np.random.default_rng(seed)
    ids = [[2, *rng.integers(10, 200, size=rng.integers(2, 12)).tolist(), 3] for _ in range(n_texts)]
    target = rng.dirichlet(np.ones(3), size=n_texts).astype(np.float32)
    weight = rng.gamma(0.5, size=n_texts).astype(np.float32)
    logits = tuple(rng.normal(size=(n_texts, len(columns))).astype(np.float32) for columns in SHAPES.columns)
    hidden = tuple(rng.normal(size=(n_texts, width)).astype(np.float16) for width in SHAPES.teacher_widths)
    return SupervisedTexts(ids, Supervision(target, weight, np.full(n_texts, -1)), TeacherSignals(logits, hidden))


def new_model() -> PreTrainedModel:
    """Make the same student without dropout each time."""
    return tiny.random_classifier(
        ("a", "b", "c"), architecture="bert", seed=5, dropout=0.0, layers=1, tokenizer=tiny.make_tokenizer()
    )


def run(method: str, folder: Path) -> None:
    """Fit a student under a method's loss or objective, and write the weights of both and the training curve."""
    model = new_model()
    torch.manual_seed(0)
    objective = METHODS[method].objective
    loss = weighted_divergence if objective is None else objective(SHAPES, MethodSettings(common_width=6))
    history = fit(
        model, tiny.make_tokenizer(), texts(17, 0), texts(5, 1), loss, SETTINGS, folder / method, lambda _: None
    )
    if int(os.environ.get("RANK", "0")) == 0:
        state = {f"student.{name}": tensor for name, tensor in model.state_dict().items()}
        if isinstance(loss, torch.nn.Module):
            state |= {f"objective.{name}": tensor for name, tensor in loss.state_dict().items()}
        save_file(state, folder / f"{method}.safetensors")
        (folder / f"{method}.json").write_text(json.dumps(history), "utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for name in METHOD_NAMES:
        run(name, Path(sys.argv[1]))
    dist.destroy_process_group()
