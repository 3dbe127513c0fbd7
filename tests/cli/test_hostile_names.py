"""Names that a stranger chose: what the commands write of them does nothing in a terminal, a page or a spreadsheet."""

import csv
import io
import json
import shutil

import markdown_it
import pytest

from amalgam_edge.reports.model_card import render_model_card
from amalgam_edge.runtime import Bundle
from amalgam_edge.runtime.manifest import read_manifest, write_manifest
from amalgam_edge.storage.records import from_json, to_json

NAMES = ["\x1b[2Jgames", "=1+1", "two\nlines", "<img src=x onerror=alert(1)>", "`|\u202e![x](http://127.0.0.1:9/y.png)"]


def does_something(text):
    return any((ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 or c in "\u202e\u2028" for c in text)


@pytest.fixture(scope="module")
def hostile(built, tmp_path_factory):
    """A bundle whose every name is one that does something."""
    bundle = shutil.copytree(built.bundle, tmp_path_factory.mktemp("hostile") / "student")
    manifest = read_manifest(bundle)
    texts = iter(range(10**6))

    def renamed(value, key=""):
        if isinstance(value, dict):
            return {name: renamed(item, name) for name, item in value.items()}
        if isinstance(value, list):
            return [renamed(item, key) for item in value]
        free = isinstance(value, str) and key in FREE_TEXT
        return f"{value} {next(texts)} {NAMES[next(texts) % len(NAMES)]}" if free else value

    document = renamed(to_json(manifest))
    for position, label in enumerate(document["heads"][0]["labels"]):
        label["name"] = f"{NAMES[position % len(NAMES)]} {position}"
    write_manifest(bundle, from_json(type(manifest), document))
    return bundle


# Entries of the manifest that hold whatever its maker wrote there.
FREE_TEXT = {
    "amalgam-edge", "architecture", "name", "teacher", "class", "source", "labels", "quantization", "compared_with",
    "method", "data", "reason", "picked", "corpus",
}  # fmt: skip


def test_what_is_shown_of_a_hostile_bundle_does_nothing(hostile, invoke):
    for command in (
        ["inspect", hostile],
        ["inspect", hostile, "--json"],
        ["predict", hostile, "a text"],
        ["predict", hostile, "a text\x1b[2J\u202e"],
        ["predict", hostile, "a text\x9b2J\u202e", "--format", "jsonl", "--all-scores"],
    ):
        result = invoke(*command)
        assert result.exit_code == 0, result.output
        assert result.stdout
        assert not does_something(result.output), command


def test_json_holds_the_names_as_they_are(hostile, invoke):
    manifest = read_manifest(hostile)
    assert json.loads(invoke("inspect", hostile, "--json").stdout) == to_json(manifest)
    row = json.loads(invoke("predict", hostile, "a\x9b", "--format", "jsonl", "--all-scores").stdout)
    assert row["text"] == "a\x9b"
    assert set(row["scores"]) == {label.name for label in manifest.heads[0].labels}


def test_no_cell_of_csv_is_a_formula(hostile, invoke):
    texts = ["=cmd|'/c calc'!A0", "+1+1", "-2+3", "@SUM(1)", "\tx", "-12.5", "plain", "a=b"]
    result = invoke("predict", hostile, "--format", "csv", "--all-scores", "--", *texts)
    rows = list(csv.reader(io.StringIO(result.stdout)))
    cells = [cell for row in rows for cell in row]
    assert not [cell for cell in cells if cell[:1] in "=+-@\t\r" and cell[:1] and cell != "-12.5"]
    assert [row[0] for row in rows[1:]] == [f"'{text}" for text in texts[:5]] + texts[5:]
    assert len({len(row) for row in rows}) == 1


def test_one_line_of_a_hostile_bundle_stays_one(hostile, invoke):
    shown = invoke("inspect", hostile).stdout
    assert "lines" not in [line.split()[0] for line in shown.splitlines() if line.strip()]


def test_the_model_card_of_a_hostile_bundle_holds_no_html_link_or_picture(hostile):
    card = render_model_card(read_manifest(hostile), "student")
    body = card.split("---\n", 2)[2]
    html = markdown_it.MarkdownIt("gfm-like", {"linkify": False, "html": True}).render(body)
    assert "<img" not in html
    assert "<a " not in html
    assert not does_something(card)
    assert html.count("<tr>") == markdown_it.MarkdownIt("gfm-like", {"linkify": False}).render(body).count("<tr>")


def test_the_report_of_a_hostile_bundle_holds_no_markup_of_its_maker(hostile):
    from amalgam_edge.reports.build_report import render_front

    assert "<img" not in render_front(Bundle.open(hostile).manifest)
