"""Adapters of transformers' ``Trainer``: for the losses of methods, and for several processes that share each batch."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, Trainer, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput

from amalgam_edge.methods.objectives import Objective, TrainingBatch
from amalgam_edge.models.hidden_state import capture_hidden_state
from amalgam_edge.progress import Advance
from amalgam_edge.storage.staging import write_atomically
from amalgam_edge.storage.syncing import sync_folder, sync_tree
from amalgam_edge.training.sharing import ShareCollator, SharedBatchSampler, gather_batch, n_processes, process_rank
from amalgam_edge.training.supervised_texts import SupervisedTexts

COMPLETE = "complete"  # the empty file that marks a checkpoint whose files are all on the disk

LossFunction = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class StudentWithObjective(torch.nn.Module):
    """A student and its objective as one model, so that both are optimised, saved in checkpoints and resumed alike.

    Args:
        student: The classifier that is trained.
        objective: The objective; its parameters are trained too.
    """

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
        n_local: int | None = None,
    ) -> dict[str, torch.Tensor]:
        """The objective's loss and the student's logits.

        ``n_local`` is given where processes share the batch: the number of rows that count in this process.
        """
        with capture_hidden_state(self.student) as latest:
            logits = self.student(input_ids=input_ids, attention_mask=attention_mask).logits
        with torch.autocast(input_ids.device.type, enabled=False):
            parts = [logits, latest(), target, weight, *teacher_logits, *teacher_hidden]
            parts = [part.float() for part in parts] if n_local is None else gather_batch(parts, n_local)
            signals, n_teachers = parts[4:], len(teacher_logits)
            batch = TrainingBatch(
                logits=parts[0],
                hidden=parts[1],
                target=parts[2],
                weight=parts[3],
                teacher_logits=tuple(signals[:n_teachers]),
                teacher_hidden=tuple(signals[n_teachers:]),
            )
            return {"loss": self.objective(batch), "logits": logits}


class LossTrainer(Trainer):
    """A ``Trainer`` that minimises a loss of logits, targets and weights, or a model's own objective.

    Args:
        loss: The loss, or the objective that is part of ``model`` as :class:`StudentWithObjective`.
        options: What ``Trainer`` takes.
    """

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
        """The loss of a batch, a scalar; with the model's outputs if asked for."""
        if isinstance(self._loss, Objective):  # the model computes it itself
            return super().compute_loss(model, inputs, return_outputs)
        outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        parts = [outputs.logits, inputs["target"], inputs["weight"]]
        logits, target, weight = gather_batch(parts, inputs["n_local"]) if "n_local" in inputs else parts
        loss = self._loss(logits, target, weight)
        return (loss, outputs) if return_outputs else loss


class SharedBatchTrainer(LossTrainer):
    """A :class:`LossTrainer` on several processes, which share the batches that one process would read, in that order.

    Args:
        loss: See :class:`LossTrainer`.
        batch_size: Number of texts per batch, over all processes.
        options: What ``Trainer`` takes.
    """

    def __init__(self, loss: LossFunction | Objective, *, batch_size: int, **options: Any) -> None:
        super().__init__(loss, **options)
        self._batch_size = batch_size

    def get_train_dataloader(self) -> torch.utils.data.DataLoader:
        """This process' share of each training batch, in an order that is new in each epoch."""
        return self._loader(self.train_dataset, seed=None)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> torch.utils.data.DataLoader:
        """This process' share of each evaluation batch, always in the same order."""
        return self._loader(eval_dataset or self.eval_dataset, seed=self.args.data_seed)

    def _loader(self, texts: SupervisedTexts, seed: int | None) -> torch.utils.data.DataLoader:
        sampler = SharedBatchSampler(
            texts.lengths(), self._batch_size, process_rank(), n_processes(), self.args.device, seed
        )
        return torch.utils.data.DataLoader(
            texts,
            batch_sampler=sampler,
            collate_fn=ShareCollator(self.data_collator, texts[0]),
            pin_memory=self.args.dataloader_pin_memory,
        )

    def evaluation_loop(
        self, dataloader: torch.utils.data.DataLoader, *options: Any, metric_key_prefix: str = "eval", **more: Any
    ) -> EvalLoopOutput:
        """The mean loss over the evaluation texts. Every process has the loss of each whole batch."""
        self.model.eval()
        assert isinstance(dataloader.batch_sampler, SharedBatchSampler)  # noqa: S101  (see get_eval_dataloader)
        sizes = dataloader.batch_sampler.batch_sizes
        losses = [float(self.prediction_step(self.model, inputs, True)[0]) for inputs in dataloader]
        loss = float(np.average(losses, weights=sizes))
        return EvalLoopOutput(None, None, {f"{metric_key_prefix}_loss": loss}, sum(sizes))


class DurableCheckpoints(TrainerCallback):
    """Keeps the last checkpoint alone, and deletes the one before it when the last is on the disk as a whole.

    ``Trainer`` would delete it earlier, and after a power cut there might be neither.
    """

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Sync the checkpoint that was written, mark it as complete, and delete all others."""
        folder = Path(args.output_dir)
        written = folder / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        sync_tree(written)
        write_atomically(written / COMPLETE, b"")
        sync_folder(folder)
        for checkpoint in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
            if checkpoint != written:
                shutil.rmtree(checkpoint, ignore_errors=True)


class ProgressCallback(TrainerCallback):
    """Reports each update, and at the start all updates that a resumed run need not repeat.

    Args:
        advance: Called with the number of updates since the last call.
    """

    def __init__(self, advance: Advance) -> None:
        self._advance = advance
        self._n_reported = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Report the updates that were made before this run."""
        self._report(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Report an update."""
        self._report(state.global_step)

    def _report(self, step: int) -> None:
        if step > self._n_reported:
            self._advance(step - self._n_reported)
            self._n_reported = step
