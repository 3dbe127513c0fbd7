"""The reference of the file formats is what the records say."""

import importlib.util
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def make_reference():
    spec = importlib.util.spec_from_file_location("make_reference", DOCS / "make_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_is_up_to_date(make_reference):
    for name, content in make_reference.rendered().items():
        found = (DOCS / "reference" / name).read_text("utf-8")
        assert found == content, f"docs/reference/{name} is out of date: run python docs/make_reference.py"


def test_every_entry_is_described(make_reference):
    for name in ("bundle-format.md", "scores-format.md"):
        rows = [line for line in make_reference.rendered()[name].splitlines() if line.startswith("| `")]
        assert len(rows) > 10
        for row in rows:
            assert len(row.split(" | ")[-1]) > 5, row
