"""A fixture for tests that export many models."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def translations_read_once() -> Iterator[None]:
    """Each export reads thousands of translations to ONNX anew, a tenth of its time; here only the first one does."""
    from torch.onnx._internal.exporter import _registration

    with pytest.MonkeyPatch.context() as patch:
        translations = _registration.onnxscript_apis
        patch.setattr(translations, "get_torchlib_ops", functools.cache(translations.get_torchlib_ops))
        yield
