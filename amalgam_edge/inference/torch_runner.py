"""A teacher on torch."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from amalgam_edge.dropout.masks import DROPOUT_OFF, Masks
from amalgam_edge.dropout.sites import DropoutSite, LiveDropout, training_mode, unbatched_sites
from amalgam_edge.errors import AmalgamError
from amalgam_edge.inference.devices import resolve_device


class TorchRunner:
    """Runs a transformers classifier with live dropout.

    Args:
        model: with eager attention, so that dropout on attention is a call that masks can be placed on.
        sites: where it drops, as :func:`~amalgam_edge.dropout.sites.find_sites` found.
        seed: of the masks.
        passes: K, the length of a round, over which systematic masks are balanced.
        masks: ``systematic`` or ``independent``.
        device: ``auto`` takes CUDA where there is one.
        half: compute in float16, on a GPU.

    Raises:
        AmalgamError: the device is not there, or computes in float32 alone.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        sites: Sequence[DropoutSite],
        *,
        seed: int = 0,
        passes: int = 16,
        masks: Masks = "systematic",
        device: str = "auto",
        half: bool = False,
    ) -> None:
        self._device = resolve_device(device)
        if half and self._device.type == "cpu":
            raise AmalgamError("fp16 needs a GPU; use --precision fp32")
        self._model = copy.deepcopy(model).half().to(self._device) if half else model.to(self._device)
        self._model.eval()
        self._dropout = LiveDropout(seed, passes, masks, device=self._device, unbatched=unbatched_sites(sites))

    @property
    def n_classes(self) -> int:
        """How many logits the model gives."""
        return int(self._model.config.num_labels)

    def run(self, input_ids: np.ndarray, attention_mask: np.ndarray, passes: Sequence[int]) -> np.ndarray:
        """Logits ``(n_passes, n_texts, n_classes)``; see :class:`~amalgam_edge.inference.runner.TeacherRunner`."""
        inputs = {
            "input_ids": torch.from_numpy(input_ids).to(self._device),
            "attention_mask": torch.from_numpy(attention_mask).to(self._device),
        }
        with torch.inference_mode():
            logits = torch.stack([self._pass(inputs, mc_pass) for mc_pass in passes])
        return logits.float().cpu().numpy()

    def _pass(self, inputs: dict[str, torch.Tensor], mc_pass: int) -> torch.Tensor:
        if mc_pass == DROPOUT_OFF:
            return self._model(**inputs).logits
        self._dropout.start(mc_pass)
        with training_mode(self._model), self._dropout:
            return self._model(**inputs).logits
