"""Builds that are cut off while they train."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from amalgam_edge.building import students


@contextmanager
def training_dies_in_the_second_epoch() -> Iterator[None]:
    """While entered, training is interrupted after its third update."""
    real = students.fit

    def dying(*arguments: Any, advance: Callable[[int], None], **options: Any) -> Any:
        done = []

        def watch(count: int) -> None:
            done.append(count)
            if len(done) > 3:
                raise KeyboardInterrupt
            advance(count)

        return real(*arguments, advance=watch, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(students, "fit", dying)
        yield


def assert_same_model(one: Path, other: Path) -> None:
    """The float models of two bundles give the same logits."""
    feed = {name: np.ones((1, 4), dtype=np.int64) for name in ("input_ids", "attention_mask")}
    logits = [
        onnxruntime.InferenceSession(str(bundle / "onnx" / "model.onnx")).run(None, feed)[0] for bundle in (one, other)
    ]
    np.testing.assert_allclose(logits[0], logits[1], atol=1e-5)
