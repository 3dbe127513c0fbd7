"""Run the float model on calibration texts, and gather the statistics of what its layers multiply."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx

from amalgam_edge.exporters.quantization.activations import (
    Activation,
    Activations,
    add_observers,
    merge_activations,
)
from amalgam_edge.runtime.text_model import TextModel

OpenModel = Callable[[Path], TextModel]  # opens an ONNX file with the bundle's tokenizer


def observe_activations(source: Path, beside: Path, texts: Sequence[str], open_model: OpenModel) -> Activations:
    """Gather the statistics of all values that a model multiplies with a constant matrix.

    Args:
        source: The file of the float model.
        beside: A file in a folder where a temporary copy of the model may be written.
        texts: The calibration texts.
        open_model: Opens a model with the bundle's tokenizer.
    """
    model = onnx.load(source)
    outputs = add_observers(model.graph)
    names = [name for pair in outputs.values() for name in pair]
    with scratch_model(beside, "observed") as observed:
        onnx.save(model, observed)
        statistics: dict[str, Activation] = {}
        for values in open_model(observed).outputs(texts, names):
            for value, largest, gram in zip(outputs, values[::2], values[1::2], strict=True):
                batch = Activation(largest, gram)
                statistics[value] = merge_activations([statistics[value], batch]) if value in statistics else batch
    return statistics


@contextmanager
def scratch_model(beside: Path, purpose: str) -> Iterator[Path]:
    """The path of a temporary model file beside another file, deleted afterwards.

    The process id is part of its name, so that builds that share a folder do not meet.
    """
    path = beside.with_name(f"{beside.stem}.{os.getpid()}.{purpose}.onnx")
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
