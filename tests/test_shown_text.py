"""Text that others wrote does nothing where it is shown."""

import ast
import json
import re
import unicodedata
from pathlib import Path

import markdown_it
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amalgam_edge import shown_text
from amalgam_edge.errors import AmalgamError

HOSTILE = [
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\x9b31m",
    "\r overwritten",
    "two\nlines",
    "a\u202egnp.exe",
    "a\u2066b",
    "\u2028",
    "\x00",
    "\x7f",
    "half \ud83d",
    "\ufeff",
    "tag\U000e0041",
]
ANY_TEXT = st.text(st.one_of(st.characters(), st.sampled_from("".join(HOSTILE)), st.sampled_from("`|<&[]()!*_\\~")))


def does_something(character):
    """By Unicode's own categories: controls, surrogates, separators of lines, and the marks of direction."""
    if character in "\n\t":
        return False
    return (
        unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
        or unicodedata.bidirectional(character) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
        or character in "\u061c\u200e\u200f"
    )


@given(ANY_TEXT)
def test_nothing_that_is_shown_does_anything(text):
    assert not any(map(does_something, shown_text.lines(text)))
    one = shown_text.line(text)
    assert not any(map(does_something, one))
    assert not {"\n", "\t"} & set(one)


@given(st.text(st.characters(exclude_categories=["C", "Z"])))
def test_plain_text_is_shown_as_it_is(text):
    text = "".join(character for character in text if not does_something(character))
    assert shown_text.lines(text) == shown_text.line(text) == text


@pytest.mark.parametrize("text", ["👩‍🚀🎉", "Straße & 猫", "שלום", "नमस्ते", "tab\tand\nline"])
def test_joined_emoji_and_any_script_stay(text):
    assert shown_text.lines(text) == text


def test_what_is_taken_away_can_still_be_read():
    assert shown_text.line("\x1b[31m\n\u202e") == r"\x1b[31m\n\u202e"


@given(ANY_TEXT, st.integers(8, 60))
def test_a_long_line_keeps_its_ends(text, longest):
    found = shown_text.line(text, longest)
    if len(text) <= longest:
        assert found == shown_text.line(text)
    else:
        assert found.startswith(shown_text.line(text[:1]))
        assert found.endswith(shown_text.line(text[-1:]))
        assert len(found) <= 10 * (longest + 3)


JSON = st.recursive(ANY_TEXT | st.integers() | st.none(), lambda s: st.lists(s) | st.dictionaries(ANY_TEXT, s))


@given(JSON, st.sampled_from([None, 2]))
def test_json_reads_as_the_same_document(document, indent):
    shown = shown_text.json_lines(document, indent)
    assert json.loads(shown) == document
    assert not any(map(does_something, shown))


@given(ANY_TEXT)
def test_markdown_reads_as_the_text_alone(text):
    """By a parser of CommonMark and of GitHub's tables."""
    html = markdown_it.MarkdownIt("gfm-like", {"linkify": False}).renderInline(f"x{shown_text.markdown(text)}x")
    assert "<" not in html
    plain = html.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"').replace("&amp;", "&")
    assert plain == f"x{shown_text.line(text)}x"


@pytest.mark.parametrize("hostile", HOSTILE)
def test_the_message_of_an_error_is_one_line_that_does_nothing(hostile):
    message = str(AmalgamError(f"{hostile}: no label; rename it"))
    assert not any(map(does_something, message))
    assert "\n" not in message
    assert message.endswith(": no label; rename it")


def test_the_message_of_an_error_is_never_longer_than_a_page():
    message = str(AmalgamError("x" * 6_000_000 + "; the remedy"))
    assert len(message) < 2100
    assert message.endswith("; the remedy")


def test_commands_write_through_one_module_alone():
    """Which shows nothing as it came: a new command that prints by itself fails here."""
    folder = Path(__file__).parents[1] / "cli"
    wrong = []
    for file in sorted(folder.glob("*.py")):
        if file.name == "output.py":
            continue
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            if called in ("print", "click.echo", "click.secho") or called.endswith(("stdout.write", "stderr.write")):
                wrong.append(f"{file.name}:{node.lineno}: {called}")
    assert wrong == []


def test_words_for_people_name_no_class_but_those_that_people_use():
    """A class that is renamed must not change what is said."""
    root = Path(__file__).parents[1]
    files = [
        path for package in ("amalgam_edge", "cli", "exporters", "models") for path in (root / package).rglob("*.py")
    ]
    trees = {path: ast.parse(path.read_text("utf-8")) for path in files}
    classes = {node.name for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    inner = {name for name in classes if re.match(r"[A-Z][a-z]+[A-Z]", name)} - {"EdgeClassifier"}
    named = []
    for path, tree in trees.items():
        documented = [node for node in ast.walk(tree) if isinstance(node, DOCUMENTED) and node.body]
        docstrings = {id(node.body[0].value) for node in documented if isinstance(node.body[0], ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                words = set(re.findall(r"\w+", node.value)) if " " in node.value else set()
                named += [f"{path.name}:{node.lineno}: {word}" for word in words & inner]
    assert named == []


DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
