"""Dropout passes of a transformers classifier, on torch."""

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
    """Runs a transformers classifier with live dropout; a :class:`~amalgam_edge.inference.runner.DropoutRunner`.

    Args:
        model: Classifier with eager attention: fused attention drops inside its kernel, where no mask can be applied.
        sites: The model's dropout sites, as :func:`~amalgam_edge.dropout.sites.find_sites` returned them.
        seed: Seed of the masks.
        passes: K, the number of passes over which systematic masks are balanced.
        masks: ``systematic`` or ``independent``.
        device: ``cpu``, ``cuda``, ``cuda:N``, or ``auto``, which prefers CUDA.
        half: Whether to compute in float16, on a GPU; the model itself is left in float32.

    Raises:
        AmalgamError: The device does not exist, or ``half`` is asked for on the CPU.
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
        """The number of logits for each text."""
        return int(self._model.config.num_labels)

    def run(self, input_ids: np.ndarray, attention_mask: np.ndarray, passes: Sequence[int]) -> np.ndarray:
        """Logits ``(n_passes, n_texts, n_classes)``; see :class:`~amalgam_edge.inference.runner.DropoutRunner`."""
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
