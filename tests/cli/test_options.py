"""Every option that a message, a help text or a document names exists, in the command that it is named with."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from amalgam_edge.cli.main import cli
from amalgam_edge.cli.training import command as training

REPOSITORY = Path(__file__).parents[2]
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*[a-z0-9](?![\w-])")
COMMAND = re.compile(r"amalgam-edge ([a-z][a-z-]+)([^`\n|;]*)")
BENCHMARK = re.compile(r"python -m ((?:benchmarks|examples)(?:\.[a-z_]+)+)")
DOCUMENTS = [REPOSITORY / name for name in ("README.md", "CHANGELOG.md", "benchmarks/README.md")]
DOCUMENTS += sorted((REPOSITORY / "docs").glob("*.md"))
FOLDERS = ("amalgam_edge", "cli", "exporters", "models")
SOURCES = sorted(path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*.py"))
# Options of other programs, which a file may name if it names the program too.
FOREIGN = {
    "--preload": "gunicorn",
    "--workers": "gunicorn",
    "--directory": "http.server",
    "--local-addr": "torch.distributed.run",
    "--max-restarts": "torchrun",
    "--no-cache-dir": "pip install",
    "--no-create-home": "useradd",
    "--nproc-per-node": "torch",
    "--standalone": "torch.distributed.run",
    "--upgrade": "pip install",
}


def options_of(command: click.Command) -> set[str]:
    """The long options of a command and of its subcommands."""
    found = {"--help"}
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            found |= {name for name in (*parameter.opts, *parameter.secondary_opts) if name.startswith("--")}
    for subcommand in subcommands(command).values():
        found |= options_of(subcommand)
    return found


def subcommands(command: click.Command) -> dict[str, click.Command]:
    if not isinstance(command, click.Group):
        return {}
    context = click.Context(command)
    found = {name: command.get_command(context, name) for name in command.list_commands(context)}
    return {name: subcommand for name, subcommand in found.items() if subcommand is not None}


COMMANDS = subcommands(cli)
OPTIONS = options_of(cli) | options_of(training)


def options_of_benchmarks(text: str) -> set[str]:
    """The options of all benchmarks that a text names, as their sources declare them."""
    sources = [REPOSITORY / f"{module.replace('.', '/')}.py" for module in BENCHMARK.findall(text)]
    declared = [re.findall(r'add_argument\(\s*"(--[a-z-]+)"', source.read_text("utf-8")) for source in sources]
    return {option for options in declared for option in options}


def literals(source: str) -> Iterator[str]:
    """The string literals of a source file; values within an f-string become ``…``."""
    tree = ast.parse(source)
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            yield node.value


def problems(text: str, file: str) -> list[str]:
    """Options that do not exist, or not in the command that the text names them with.

    Args:
        text: A document, or a string literal.
        file: The whole file that it is from.
    """
    text = text.replace("\\\n", " ")
    foreign = {option for option, program in FOREIGN.items() if program in file}
    known = OPTIONS | foreign | options_of_benchmarks(text)
    found = [option for option in OPTION.findall(text) if option not in known]
    for name, rest in COMMAND.findall(text):
        if name in COMMANDS:
            found += [f"{name} {option}" for option in OPTION.findall(rest) if option not in options_of(COMMANDS[name])]
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documents_name_options_that_exist(path):
    document = path.read_text("utf-8")
    assert problems(document, document) == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_messages_and_help_texts_name_options_that_exist(folder):
    paths = [path for path in SOURCES if path.is_relative_to(REPOSITORY / folder)]
    files = {str(path): path.read_text("utf-8") for path in paths}
    found = {
        name: [option for text in literals(file) for option in problems(text, file)] for name, file in files.items()
    }
    assert {name: options for name, options in found.items() if options} == {}
    assert files


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("build it with --precisions fp32,int8", ["--precisions"]),
        ("`amalgam-edge predict student/ --budget x`", ["predict --budget"]),
        ("amalgam-edge build --output x \\\n    --soak 3", ["--soak", "build --soak"]),
        ("python -m benchmarks.serving.run --soak 600", []),
        ("`amalgam-edge scores verify` and --no-cascade", []),
    ],
)
def test_an_option_that_does_not_exist_is_found(text, found):
    assert problems(text, text) == found
