"""Every command of the benchmarks and the demo can be imported and explains itself."""

import importlib
import re
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SOURCES = sorted(path for folder in ("benchmarks", "examples") for path in (REPOSITORY / folder).rglob("*.py"))
DOCUMENTS = [REPOSITORY / "README.md", REPOSITORY / "benchmarks/README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
COMMANDS = [path for path in SOURCES if 'if __name__ == "__main__":' in path.read_text("utf-8")]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)


@pytest.mark.parametrize("module", [module_of(path) for path in COMMANDS])
def test_a_command_explains_itself(module, monkeypatch, capsys):
    if module.endswith("peer_litserve"):
        pytest.importorskip("litserve")
    command = importlib.import_module(module)
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 0
    assert " ".join(command.__doc__.split())[:40] in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documents_name_commands_that_exist(document):
    named = re.findall(r"\b(?:benchmarks|examples)(?:\.[a-z_]+)+\b(?!\*)", document.read_text("utf-8"))
    packages = {module_of(path.parent) for path in SOURCES}
    assert {*named} - {"benchmarks.md"} <= {module_of(path) for path in COMMANDS} | packages
