"""Fitting a classifier to supervision with transformers' ``Trainer``. No teacher runs in the training loop."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, TrainingArguments
from transformers.integrations import get_available_reporting_integrations
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from amalgam_edge.errors import AmalgamError
from amalgam_edge.inference.devices import resolve_device
from amalgam_edge.methods.objectives import Objective
from amalgam_edge.progress import Advance
from amalgam_edge.recipe.sections import TrainingSettings
from amalgam_edge.storage.write_errors import report_write_errors
from amalgam_edge.training.sharing import n_processes, process_rank
from amalgam_edge.training.supervised_texts import PaddingCollator, SupervisedTexts
from amalgam_edge.training.trainers import (
    COMPLETE,
    DurableCheckpoints,
    LossFunction,
    LossTrainer,
    ProgressCallback,
    SharedBatchTrainer,
    StudentWithObjective,
)

CURVE_POINTS = 50
History = list[dict[str, float]]


def check_logger(name: str) -> None:
    """Refuse a logger that the training loop could not report to, before any work is done.

    Raises:
        AmalgamError: The logger is not known, or its package is not installed.
    """
    available = ("none", *get_available_reporting_integrations())
    if name not in available:
        raise AmalgamError(
            f"--report-to {name}: not known, or its package is not installed; there are {', '.join(available)}"
        )


def fit(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train: SupervisedTexts,
    held_out: SupervisedTexts | None,
    loss: LossFunction | Objective,
    settings: TrainingSettings,
    folder: Path,
    advance: Advance,
    *,
    resume: bool = False,
) -> History:
    """Fit a model in place. It ends on the CPU and in evaluation mode. On CUDA it is trained in mixed precision.

    If ``torch.distributed`` is initialised, the processes of its group share each batch and all end with the same
    weights: those that one process would have ended with, up to rounding and the student's own dropout.

    Args:
        model: A classifier.
        tokenizer: The tokenizer whose padding token fills up batches.
        train: The texts to train on.
        held_out: Texts on which the loss is measured after each epoch, or None.
        loss: Function (logits, target, weight) → mean loss of the batch, a scalar. Or an objective, whose parameters
            are trained too.
        settings: See :class:`TrainingSettings`.
        folder: Folder for checkpoints, one per epoch.
        advance: Called in the first process with the number of updates since the last call.
        resume: Continue from the last complete checkpoint in ``folder``, if there is one.

    Returns:
        The training curve: dicts with ``step``, ``epoch``, and ``loss`` or ``held_out_loss``.
    """
    options = {
        "model": StudentWithObjective(model, loss) if isinstance(loss, Objective) else model,
        "args": training_arguments(settings, len(train), folder, evaluate=held_out is not None),
        "train_dataset": train,
        "eval_dataset": held_out,
        "data_collator": PaddingCollator(tokenizer.pad_token_id or 0),
        "callbacks": [ProgressCallback(advance), DurableCheckpoints()] if process_rank() == 0 else None,
    }
    if n_processes() > 1:
        trainer: LossTrainer = SharedBatchTrainer(loss, batch_size=settings.batch_size, **options)
    else:
        trainer = LossTrainer(loss, **options)
    trainer.remove_callback(PrinterCallback)
    if process_rank() > 0:
        torch.manual_seed(settings.seed + process_rank())  # so that each process has dropout masks of its own
    checkpoint = last_checkpoint(folder) if resume else None
    with report_write_errors(folder):
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    trainer.model.to("cpu").eval()
    return _training_curve(trainer.state.log_history)


def training_arguments(settings: TrainingSettings, n_texts: int, folder: Path, *, evaluate: bool) -> TrainingArguments:
    """The arguments of transformers' ``Trainer`` for a run over ``n_texts`` texts.

    Args:
        settings: See :class:`TrainingSettings`.
        n_texts: Number of training texts.
        folder: Folder for checkpoints.
        evaluate: Whether the loss on held-out texts is measured after each epoch.
    """
    on_cuda = resolve_device(settings.device).type == "cuda"
    bf16 = on_cuda and torch.cuda.is_bf16_supported()
    n_updates = settings.n_updates(n_texts)
    texts_per_process = math.ceil(settings.batch_size / n_processes())
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=texts_per_process,
        per_device_eval_batch_size=texts_per_process,
        learning_rate=settings.peak_learning_rate(),
        lr_scheduler_type="linear",
        warmup_steps=math.ceil(settings.warmup_ratio * n_updates),
        weight_decay=settings.weight_decay,
        train_sampling_strategy="group_by_length",
        bf16=bf16,
        fp16=on_cuda and not bf16,
        use_cpu=not on_cuda,
        seed=settings.seed,
        data_seed=settings.seed,
        eval_strategy="epoch" if evaluate else "no",
        save_strategy="epoch",
        save_total_limit=None,  # see DurableCheckpoints
        logging_strategy="steps",
        logging_steps=max(1, n_updates // CURVE_POINTS),
        report_to=settings.report_to,
        remove_unused_columns=False,
        label_names=["target", "weight"],
        prediction_loss_only=True,
        disable_tqdm=True,
        dataloader_pin_memory=on_cuda,
        log_level="error",
    )


def last_checkpoint(folder: Path) -> Path | None:
    """The checkpoint with the most updates among those that were written completely. None if there is none."""
    complete = [file.parent for file in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*/{COMPLETE}")]
    return max(complete, key=lambda checkpoint: int(checkpoint.name.rpartition("-")[2]), default=None)


def _training_curve(log: Sequence[Mapping[str, float]]) -> History:
    names = {"loss": "loss", "eval_loss": "held_out_loss"}
    return [
        {"step": entry["step"], "epoch": entry["epoch"], names[key]: entry[key]}
        for entry in log
        for key in names
        if key in entry
    ]
