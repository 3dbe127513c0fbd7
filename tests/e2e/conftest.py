from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.real_models import command, encoder, real, shared_folder  # noqa: F401  (fixtures)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "e2e" in Path(str(item.fspath)).parts:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Real models gain from threads: let torch choose."""
