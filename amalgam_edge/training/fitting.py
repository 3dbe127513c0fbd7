"""Fitting a classifier to supervision, with transformers' ``Trainer``. No teacher runs in the loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.integrations import get_available_reporting_integrations
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import EvalLoopOutput

from amalgam_edge.errors import AmalgamError
from amalgam_edge.inference.devices import resolve_device
from amalgam_edge.inference.padding import pad_batch
from amalgam_edge.methods import Batch, Objective, Told
from amalgam_edge.methods.supervision import Supervision
from amalgam_edge.models.hidden_state import capture_hidden_state
from amalgam_edge.progress import Advance
from amalgam_edge.training.sharing import JoinShare, Shares, n_processes, process_rank, whole_batch

LossFunction = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
History = list[dict[str, float]]


@dataclass(frozen=True)
class TrainingSettings:
    """How the student is fitted.

    Attributes:
        epochs: passes over the texts.
        batch_size: texts an update, over all processes.
        learning_rate: the peak, after a linear warm-up and before a linear decay.
        warmup_ratio: share of the updates spent warming up.
        weight_decay: of AdamW.
        seed: of shuffling and of the student's own dropout.
        device: ``auto``, ``cpu``, ``cuda``.
        report_to: transformers' name of a logger (``tensorboard``, ``wandb`` …) or ``none``.
    """

    epochs: int = 5
    batch_size: int = 32
    learning_rate: float = 1e-4
    warmup_ratio: float = 0.1
    weight_decay: float = 0.01
    seed: int = 0
    device: str = "auto"
    report_to: str = "none"

    def n_updates(self, n_texts: int) -> int:
        """How many updates a run over ``n_texts`` takes."""
        return self.epochs * math.ceil(n_texts / self.batch_size)


def check_logger(name: str) -> None:
    """Refuse a logger that the training loop could not report to, before any work is done.

    Raises:
        AmalgamError: it is not known, or its package is not installed.
    """
    available = ("none", *get_available_reporting_integrations())
    if name not in available:
        raise AmalgamError(
            f"--report-to {name}: not known, or its package is not installed; there are {', '.join(available)}"
        )


class SupervisedTexts(torch.utils.data.Dataset[dict[str, Any]]):
    """Tokenized texts, each with its target and weight.

    Args:
        input_ids: token ids of each text; may be memory-mapped.
        supervision: a row a text.
        told: what the teachers say of each text, for an objective to read.
    """

    def __init__(self, input_ids: Sequence[list[int]], supervision: Supervision, told: Told | None = None) -> None:
        if len(input_ids) != len(supervision.target):
            raise ValueError(f"{len(input_ids)} texts but {len(supervision.target)} targets")
        self._input_ids = input_ids
        self._supervision = supervision
        self._told = told or Told()

    @property
    def supervision(self) -> Supervision:
        """A row a text."""
        return self._supervision

    @property
    def told(self) -> Told:
        """What the teachers say of each text."""
        return self._told

    def lengths(self) -> list[int]:
        """Tokens of each text, ``(n_texts,)``."""
        return [len(ids) for ids in self._input_ids]

    def __len__(self) -> int:
        return len(self._input_ids)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {
            "input_ids": self._input_ids[row],
            "target": self._supervision.target[row],
            "weight": self._supervision.weight[row],
            "teacher_logits": [part[row] for part in self._told.logits],
            "teacher_hidden": [part[row] for part in self._told.hidden],
        }


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
    """Fit the model in place, on the CPU when done and in evaluation mode; mixed precision where CUDA has it.

    Where ``torch.distributed`` is initialised, the processes of its group share each batch, and all end in the same
    weights: but for rounding and the student's own dropout, those that one process would have ended in.

    Args:
        model: a classifier.
        tokenizer: whose padding token fills batches.
        train: what to fit.
        held_out: what to measure the loss on after each epoch.
        loss: (logits, target, weight) → scalar mean over the batch; or an objective, whose parameters are fitted too.
        settings: see :class:`TrainingSettings`.
        folder: for checkpoints, one an epoch.
        advance: called with the number of updates just made, by the first process.
        resume: go on from the last whole checkpoint in ``folder``, where there is one.

    Returns:
        The training curve: dicts with ``step``, ``epoch`` and ``loss`` or ``held_out_loss``.
    """
    on_cuda = resolve_device(settings.device).type == "cuda"
    bf16 = on_cuda and torch.cuda.is_bf16_supported()
    n_updates = settings.n_updates(len(train))
    share = math.ceil(settings.batch_size / n_processes())
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=share,
        per_device_eval_batch_size=share,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=math.ceil(settings.warmup_ratio * n_updates),
        weight_decay=settings.weight_decay,
        train_sampling_strategy="group_by_length",
        bf16=bf16,
        fp16=on_cuda and not bf16,
        use_cpu=not on_cuda,
        seed=settings.seed,
        data_seed=settings.seed,
        eval_strategy="epoch" if held_out is not None else "no",
        save_strategy="epoch",
        save_total_limit=1,
        logging_strategy="steps",
        logging_steps=max(1, n_updates // 50),
        report_to=settings.report_to,
        remove_unused_columns=False,
        label_names=["target", "weight"],
        prediction_loss_only=True,
        disable_tqdm=True,
        dataloader_pin_memory=on_cuda,
        log_level="error",
    )
    trainer = (_SharedTrainer if n_processes() > 1 else _ObjectiveTrainer)(
        loss,
        model=_WithObjective(model, loss) if isinstance(loss, Objective) else model,
        args=arguments,
        train_dataset=train,
        eval_dataset=held_out,
        data_collator=_Padding(tokenizer.pad_token_id or 0),
        callbacks=[_Watcher(advance)] if process_rank() == 0 else None,
        **({"batch_size": settings.batch_size} if n_processes() > 1 else {}),
    )
    trainer.remove_callback(PrinterCallback)
    if process_rank() > 0:
        torch.manual_seed(settings.seed + process_rank())  # dropout masks of its own
    checkpoint = last_checkpoint(folder) if resume else None
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    trainer.model.to("cpu").eval()
    return _curve(trainer.state.log_history)


def last_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of most updates that was written to its end; None without one."""
    whole = [file.parent for file in folder.glob(f"checkpoint-*/{TRAINER_STATE_NAME}")]  # the file that comes last
    return max(whole, key=lambda checkpoint: int(checkpoint.name.rpartition("-")[2]), default=None)


class _ObjectiveTrainer(Trainer):
    def __init__(self, loss: LossFunction | Objective, **options: Any) -> None:
        super().__init__(**options)
        self._loss = loss
        self.model_accepts_loss_kwargs = False  # the loss is a mean over the batch, so accumulation divides it

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        if isinstance(self._loss, Objective):  # within the model
            return super().compute_loss(model, inputs, return_outputs)
        outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        parts = [outputs.logits, inputs["target"], inputs["weight"]]
        logits, target, weight = whole_batch(parts, inputs["n_own"]) if "n_own" in inputs else parts
        loss = self._loss(logits, target, weight)
        return (loss, outputs) if return_outputs else loss


class _SharedTrainer(_ObjectiveTrainer):
    """The same on several processes, which share the batches that one would read, in that order."""

    def __init__(self, loss: LossFunction | Objective, *, batch_size: int, **options: Any) -> None:
        super().__init__(loss, **options)
        self._whole = batch_size

    def get_train_dataloader(self) -> torch.utils.data.DataLoader:
        return self._loader(self.train_dataset, seed=None)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> torch.utils.data.DataLoader:
        return self._loader(eval_dataset or self.eval_dataset, seed=self.args.data_seed)

    def _loader(self, texts: SupervisedTexts, seed: int | None) -> torch.utils.data.DataLoader:
        shares = Shares(texts.lengths(), self._whole, process_rank(), n_processes(), self.args.device, seed)
        return torch.utils.data.DataLoader(
            texts,
            batch_sampler=shares,
            collate_fn=JoinShare(self.data_collator, texts[0]),
            pin_memory=self.args.dataloader_pin_memory,
        )

    def evaluation_loop(
        self, dataloader: torch.utils.data.DataLoader, *options: Any, metric_key_prefix: str = "eval", **more: Any
    ) -> EvalLoopOutput:
        """The mean of the batches' losses, each of which every process has, by their texts."""
        self.model.eval()
        assert isinstance(dataloader.batch_sampler, Shares)  # noqa: S101  (of get_eval_dataloader)
        counts = dataloader.batch_sampler.counts
        losses = [float(self.prediction_step(self.model, inputs, True)[0]) for inputs in dataloader]
        loss = float(np.average(losses, weights=counts))
        return EvalLoopOutput(None, None, {f"{metric_key_prefix}_loss": loss}, sum(counts))


class _WithObjective(torch.nn.Module):
    """A student and its objective as one model, so that both are optimised, kept in checkpoints and resumed alike."""

    def __init__(self, student: PreTrainedModel, objective: Objective) -> None:
        super().__init__()
        self.student = student
        self.objective = objective

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        target: torch.Tensor,
        weight: torch.Tensor,
        teacher_logits: Sequence[torch.Tensor],
        teacher_hidden: Sequence[torch.Tensor],
        n_own: int | None = None,
    ) -> dict[str, torch.Tensor]:
        with capture_hidden_state(self.student) as latest:
            logits = self.student(input_ids=input_ids, attention_mask=attention_mask).logits
        with torch.autocast(input_ids.device.type, enabled=False):
            parts = [logits, latest(), target, weight, *teacher_logits, *teacher_hidden]
            parts = [part.float() for part in parts] if n_own is None else whole_batch(parts, n_own)
            told, n_logits = parts[4:], len(teacher_logits)
            batch = Batch(
                logits=parts[0],
                hidden=parts[1],
                target=parts[2],
                weight=parts[3],
                teacher_logits=tuple(told[:n_logits]),
                teacher_hidden=tuple(told[n_logits:]),
            )
            return {"loss": self.objective(batch), "logits": logits}


class _Padding:
    """Joins examples to a batch, padded on the right to the longest."""

    def __init__(self, pad_token_id: int) -> None:
        self._pad_token_id = pad_token_id

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        input_ids, attention_mask = pad_batch([example["input_ids"] for example in examples], self._pad_token_id)
        return {
            "input_ids": torch.from_numpy(input_ids),
            "attention_mask": torch.from_numpy(attention_mask),
            "target": torch.from_numpy(np.stack([example["target"] for example in examples])),
            "weight": torch.from_numpy(np.stack([example["weight"] for example in examples])),
            "teacher_logits": _by_teacher([example["teacher_logits"] for example in examples]),
            "teacher_hidden": _by_teacher([example["teacher_hidden"] for example in examples]),
        }


def _by_teacher(rows: Sequence[Sequence[np.ndarray]]) -> list[torch.Tensor]:
    """A row a teacher of each text to the rows of each teacher."""
    return [torch.from_numpy(np.stack(part)) for part in zip(*rows, strict=True)]


class _Watcher(TrainerCallback):
    """Tells progress of each update, and of those that a resumed run need not make again."""

    def __init__(self, advance: Advance) -> None:
        self._advance = advance
        self._seen = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._tell(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._tell(state.global_step)

    def _tell(self, step: int) -> None:
        if step > self._seen:
            self._advance(step - self._seen)
            self._seen = step


def _curve(log: Sequence[Mapping[str, float]]) -> History:
    names = {"loss": "loss", "eval_loss": "held_out_loss"}
    return [
        {"step": entry["step"], "epoch": entry["epoch"], names[key]: entry[key]}
        for entry in log
        for key in names
        if key in entry
    ]
