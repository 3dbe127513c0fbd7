"""A teacher on torch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from transformers import PreTrainedModel

from amalgam_edge.devices import resolve_device
from amalgam_edge.dropout import LiveDropout, Masks, find_sites
from amalgam_edge.scoring.runner import DROPOUT_OFF


class TorchRunner:
    """Runs a transformers classifier with live dropout.

    Args:
        model: with eager attention, so that dropout on attention is a call that masks can be placed on.
        seed: of the masks.
        passes: K, over which the masks are balanced.
        masks: ``systematic`` or ``independent``.
        device: ``auto`` takes CUDA where there is one.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        seed: int = 0,
        passes: int = 16,
        masks: Masks = "systematic",
        device: str = "auto",
    ) -> None:
        self._device = resolve_device(device)
        self._model = model.to(self._device)
        self._new_dropout = partial(LiveDropout, seed, passes, masks)
        self._dropout: LiveDropout | None = None

    @property
    def n_classes(self) -> int:
        """How many logits the model gives."""
        return int(self._model.config.num_labels)

    def run(self, input_ids: np.ndarray, attention_mask: np.ndarray, passes: Sequence[int]) -> np.ndarray:
        """Logits ``(n_passes, n_texts, n_classes)``; see :class:`~amalgam_edge.scoring.runner.TeacherRunner`."""
        inputs = {
            "input_ids": torch.from_numpy(input_ids).to(self._device),
            "attention_mask": torch.from_numpy(attention_mask).to(self._device),
        }
        with torch.inference_mode():
            logits = torch.stack([self._pass(inputs, mc_pass) for mc_pass in passes])
        return logits.float().cpu().numpy()

    def _pass(self, inputs: dict[str, torch.Tensor], mc_pass: int) -> torch.Tensor:
        if mc_pass == DROPOUT_OFF:
            self._model.eval()
            return self._model(**inputs).logits
        if self._dropout is None:
            sites = find_sites(self._model, {name: tensor[:1] for name, tensor in inputs.items()})
            self._dropout = self._new_dropout(unbatched=[site.number for site in sites if not site.batched])
        self._model.train()
        try:
            with self._dropout:
                self._dropout.start(mc_pass)
                return self._model(**inputs).logits
        finally:
            self._model.eval()
