"""``amalgam-edge evaluate`` on a bundle of random weights, against what ``EdgeClassifier`` answers."""

import json
import math
import re
import shutil
from html import unescape

import numpy as np
import pytest

from amalgam_edge import EdgeClassifier


@pytest.fixture(scope="module")
def rows(inputs):
    return [json.loads(line) for line in inputs.labelled.read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def answers(built, rows):
    """Gold labels, and each precision's ranked scores."""
    texts = [row["text"] for row in rows]
    return {
        precision: EdgeClassifier.from_pretrained(built.bundle, precision=precision)(texts, all_scores=True)
        for precision in ("fp32", "int8")
    }


@pytest.fixture(scope="module")
def measured(invoke, built, inputs):
    result = invoke("evaluate", built.bundle, "--data", inputs.labelled, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)["heads"]["label"]


def relabelled(bundle, folder, change):
    """A copy of a bundle whose labels have other names in the manifest."""
    shutil.copytree(bundle, folder)
    manifest = json.loads((folder / "amalgam.json").read_text("utf-8"))
    (head,) = manifest["heads"]
    head["labels"] = change(head["labels"])
    (folder / "amalgam.json").write_text(json.dumps(manifest), "utf-8")
    return folder


@pytest.fixture(scope="module")
def stranger(built, tmp_path_factory):
    """The same models, but what was called games is called chess."""
    folder = tmp_path_factory.mktemp("stranger") / "other"
    return relabelled(
        built.bundle,
        folder,
        lambda labels: [{**label, "name": {"games": "chess"}.get(label["name"], label["name"])} for label in labels],
    )


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_domains_are_those_of_the_teachers(measured, answers, rows, precision):
    for teacher, own in (("a", {"games", "net"}), ("b", {"fonts", "text"})):
        pairs = [(r["label"], a.label) for r, a in zip(rows, answers[precision], strict=True) if r["label"] in own]
        scores = []
        for label in own:
            hits = sum(gold == answer == label for gold, answer in pairs)
            named = sum(gold == label for gold, _ in pairs) + sum(answer == label for _, answer in pairs)
            scores.append(2 * hits / named)
        found = measured["student"][precision]["domains"][teacher]
        assert found["n_texts"] == len(pairs)
        assert found["accuracy"] == pytest.approx(sum(gold == answer for gold, answer in pairs) / len(pairs))
        assert found["macro_f1"] == pytest.approx(sum(scores) / 2)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_worth_of_scores_by_plain_loops(measured, answers, rows, precision):
    found = measured["student"][precision]
    gold = [row["label"] for row in rows]
    answered = answers[precision]
    n = len(gold)
    nll = -sum(math.log(a.scores[label]) for a, label in zip(answered, gold, strict=True)) / n
    assert found["nll"] == pytest.approx(nll, rel=1e-9)
    ece = 0.0
    for k in range(15):
        inside = [(a, label) for a, label in zip(answered, gold, strict=True) if k / 15 < a.score <= (k + 1) / 15]
        ece += abs(sum((a.label == label) - a.score for a, label in inside)) / n
    assert found["ece"] == pytest.approx(ece)
    surest_first = sorted(zip(answered, gold, strict=True), key=lambda pair: -pair[0].score)
    wrong = np.cumsum([a.label != label for a, label in surest_first])
    assert found["aurc"] == pytest.approx(np.mean(wrong / np.arange(1, n + 1)), abs=1e-3)
    assert found["risk_coverage"]["risk"][-1] == pytest.approx(1 - found["accuracy"])
    assert sum(found["reliability"]["share"]) == pytest.approx(1.0)


def test_labels_are_named_in_the_order_of_the_confusion(measured, rows):
    games = measured["labels"].index("games")
    counted = sum(row["label"] == "games" for row in rows)
    assert sum(measured["student"]["fp32"]["confusion"][games]) == counted


def test_the_console_shows_all_of_it(invoke, built, inputs):
    shown = invoke("evaluate", built.bundle, "--data", inputs.labelled, "--precision", "int8").output
    for word in ("macro-F1", "NLL", "ECE", "AURC", "on labels of"):
        assert word in shown
    assert "McNemar" not in shown
    assert re.search(r"student int8 +a ", shown)


def test_the_report_is_a_page_with_both_plots(invoke, built, inputs, tmp_path):
    page = tmp_path / "deep" / "evaluation.html"
    options = ["evaluate", built.bundle, "--data", inputs.labelled, "--report", page, "--compare", built.bundle]
    result = invoke(*options, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["n_texts"]
    assert str(page) in result.stderr
    html = page.read_text("utf-8")
    assert [unescape(title) for title in re.findall("<h2>(.*?)</h2>", html)] == [
        "Accuracy on labelled texts",
        "Each teacher's domain",
        f"Compared with {built.bundle}",
        "Labels",
        "Reliability",
        "Risk and coverage",
    ]
    assert html.count("<svg") == 2
    assert [path.name for path in page.parent.iterdir()] == ["evaluation.html"]


def test_a_report_that_cannot_be_written_is_said(mistake, invoke, built, inputs, tmp_path):
    (tmp_path / "file").write_text("no folder")
    options = ["evaluate", built.bundle, "--data", inputs.labelled, "--precision", "fp32", "--report"]
    assert "cannot be written" in mistake(*options, tmp_path / "file" / "page.html")
    assert invoke(*options, tmp_path).exit_code == 2


def test_two_bundles_by_hand(invoke, built, stranger, inputs, rows, answers):
    """The other one's models answer alike, but its games are called chess, so it has none of the games right."""
    options = ["evaluate", built.bundle, "--data", inputs.labelled, "--compare", stranger, "--precision", "fp32"]
    compared = json.loads(invoke(*options, "--json").stdout)["comparison"]
    gold, given = [row["label"] for row in rows], [answer.label for answer in answers["fp32"]]
    right = sum(g == a for g, a in zip(gold, given, strict=True))
    lost = sum(g == a == "games" for g, a in zip(gold, given, strict=True))
    assert compared["missing_heads"] == []
    found = compared["heads"]["label"]["models"]["fp32"]
    assert compared["heads"]["label"]["missing_labels"] == {"games": gold.count("games")}
    assert (found["n_texts"], found["b"], found["c"]) == (len(rows), lost, 0)
    assert found["accuracy"] == pytest.approx(right / len(rows))
    assert found["other_accuracy"] == pytest.approx((right - lost) / len(rows))
    assert found["difference"] == pytest.approx(lost / len(rows))
    assert found["p_value"] == pytest.approx(min(1, 2 / 2**lost))
    low, high = found["interval"]
    assert low <= found["difference"] <= high
    shown = invoke(*options).output
    assert f"does not know 'games' ({gold.count('games')}): it counts as wrong" in shown.replace("\n", " ")
    assert "exact McNemar test" in shown
    assert invoke(*options).output == shown


def test_labels_are_matched_by_name_and_not_by_place(invoke, built, inputs, tmp_path, rows, answers):
    """A bundle whose labels are named in the reverse order is right where the reversed name is the gold one."""
    other = relabelled(
        built.bundle,
        tmp_path / "other",
        lambda labels: [{**label, "name": name["name"]} for label, name in zip(labels, reversed(labels), strict=True)],
    )
    (head,) = json.loads((built.bundle / "amalgam.json").read_text("utf-8"))["heads"]
    names = [label["name"] for label in head["labels"]]
    reverse = dict(zip(names, reversed(names), strict=True))
    right = [reverse[a.label] == row["label"] for a, row in zip(answers["int8"], rows, strict=True)]
    options = ["evaluate", built.bundle, "--data", inputs.labelled, "--compare", other, "--precision", "int8", "--json"]
    found = json.loads(invoke(*options).stdout)["comparison"]["heads"]["label"]
    assert found["missing_labels"] == {}
    assert found["models"]["int8"]["other_accuracy"] == pytest.approx(np.mean(right))


def test_a_bundle_beside_itself_does_not_differ(invoke, built, inputs):
    options = ["evaluate", built.bundle, "--data", inputs.labelled, "--compare", built.bundle]
    compared = json.loads(invoke(*options, "--json").stdout)["comparison"]
    (found,) = compared["heads"]["label"]["models"].values()
    assert compared["same_bundle"]
    assert (found["difference"], found["interval"], found["b"], found["c"], found["p_value"]) == (0, [0, 0], 0, 0, 1)
    assert "both are the same bundle" in invoke(*options).output


def test_what_cannot_be_compared_is_said(mistake, built, stranger, inputs, tmp_path):
    options = ["evaluate", built.bundle, "--data", inputs.labelled, "--compare"]
    assert "no bundle" in mistake(*options, tmp_path)
    more = with_precision(built.bundle, tmp_path / "more")
    asked = ["evaluate", more, "--data", inputs.labelled, "--compare", stranger, "--precision", "q4"]
    assert f"{stranger}: no precision 'q4'" in mistake(*asked)
    alien = relabelled(
        built.bundle,
        tmp_path / "alien",
        lambda labels: [{**label, "name": f"x-{label['name']}"} for label in labels],
    )
    assert f"{alien}: knows none of the gold labels; it has x-games" in mistake(*options, alien)
    corrupt = tmp_path / "corrupt"
    shutil.copytree(built.bundle, corrupt)
    (corrupt / "tokenizer.json").write_text("{}")
    assert f"{corrupt / 'tokenizer.json'}: damaged or changed" in mistake(*options, corrupt)
    (corrupt / "amalgam.json").write_text("{")
    assert "a damaged manifest" in mistake(*options, corrupt)


def with_precision(bundle, folder):
    """A copy of a bundle that calls its float model q4 too."""
    shutil.copytree(bundle, folder)
    manifest = json.loads((folder / "amalgam.json").read_text("utf-8"))
    manifest["precisions"]["q4"] = manifest["precisions"]["fp32"]
    (folder / "amalgam.json").write_text(json.dumps(manifest), "utf-8")
    return folder


def test_what_cannot_be_measured_is_said(mistake, built, stranger, tmp_path):
    strangers = tmp_path / "strangers.csv"
    strangers.write_text("text,label\nsoup,cooking\n", "utf-8")
    options = ["--compare", stranger]
    assert "no teacher knows: 'cooking'" in mistake("evaluate", built.bundle, "--data", strangers, *options)
    blank = tmp_path / "blank.csv"
    blank.write_text('text,label\n" ",games\n', "utf-8")
    assert "no text in it" in mistake("evaluate", built.bundle, "--data", blank, *options)


def test_a_domain_without_texts_has_a_dash(invoke, built, tmp_path):
    few = tmp_path / "few.csv"
    few.write_text("text,label\nchess cards,games\n", "utf-8")
    shown = invoke("evaluate", built.bundle, "--data", few, "--precision", "fp32")
    assert shown.exit_code == 0, shown.output
    assert re.search(r"student fp32 +b +0 +– +–", shown.output)
    found = json.loads(invoke("evaluate", built.bundle, "--data", few, "--precision", "fp32", "--json").stdout)
    assert found["heads"]["label"]["student"]["fp32"]["domains"]["b"] == {
        "n_texts": 0,
        "accuracy": None,
        "macro_f1": None,
    }


def test_a_bundle_that_does_not_say_where_labels_come_from_has_no_domains(invoke, built, inputs, tmp_path):
    bare = relabelled(built.bundle, tmp_path / "bare", lambda labels: [{**label, "sources": []} for label in labels])
    result = invoke("evaluate", bare, "--data", inputs.labelled, "--report", tmp_path / "page.html")
    assert result.exit_code == 0, result.output
    assert "on labels of" not in result.output
    assert "domain" not in (tmp_path / "page.html").read_text("utf-8")
