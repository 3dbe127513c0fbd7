"""``amalgam-edge evaluate`` on a bundle of three heads, and beside its teachers, by loops over what each answers."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from amalgam_edge import EdgeClassifier, api
from amalgam_edge.cli.exit_codes import LIMIT_MISSED
from amalgam_edge.errors import AmalgamError

WORDS = "invoice parcel refund late broken order card help bill ship item angry"
LABELS = {"topic": ["billing", "shipping", "product"], "urgent": ["low", "high"], "calm": ["low", "none"]}
FLAGS = ["refund", "angry", "spam"]


@pytest.fixture(scope="module")
def rows():
    """Texts with a topic, a priority that some lack, and any number of flags."""
    random = np.random.default_rng(3)
    words = WORDS.split()
    return [
        {
            "text": f"{' '.join(random.choice(words, 4))} {number}",
            "topic": str(random.choice(LABELS["topic"])),
            "priority": str(random.choice(["low", "high", "none", ""])),
            "flags": ";".join(flag for flag in FLAGS if random.random() < 0.4),
        }
        for number in range(60)
    ]


@pytest.fixture(scope="module")
def heads(invoke, make_classifier, rows, tmp_path_factory):
    """A folder with teachers, texts, and a static student of heads topic, priority (of two teachers) and flags."""
    folder = tmp_path_factory.mktemp("heads")
    for seed, (name, labels) in enumerate(LABELS.items()):
        make_classifier(folder / name, labels, seed=seed, layers=1)
    make_classifier(folder / "tagger", FLAGS, seed=7, layers=1, problem_type="multi_label_classification")
    (folder / "corpus.txt").write_text("\n".join(row["text"] for row in rows), "utf-8")
    with (folder / "labelled.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    result = invoke(
        "build", *teachers_of(folder), "--head", "topic=topic", "--head", "priority=urgent,calm", "--head",
        "flags=tagger", "--corpus", folder / "corpus.txt", "--student", "static", "--passes", "2", "--epochs", "1",
        "--device", "cpu", "--backend", "torch", "--max-disagreement", "1", "--evaluate", folder / "labelled.csv",
        "--output", folder / "student",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return folder


def teachers_of(folder):
    names = ("topic", "urgent", "calm", "tagger")
    return [part for name in names for part in ("--teacher", f"{name}={folder / name}")]


@pytest.fixture(scope="module")
def evaluated(invoke, heads):
    """What is measured beside all teachers, as JSON."""
    options = ["--data", heads / "labelled.csv", "--precision", "fp32", "--json"]
    result = invoke("evaluate", heads / "student", *teachers_of(heads), *options)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def given(heads, rows):
    """Head or teacher → its answer to each text: a label, or a set of them."""
    texts = [row["text"] for row in rows]
    student = EdgeClassifier.from_pretrained(heads / "student", precision="fp32")(texts)
    answers = {
        "student topic": [answer["topic"].label for answer in student],
        "student priority": [answer["priority"].label for answer in student],
        "student flags": [set(answer["flags"].labels) for answer in student],
    }
    for name, labels in {**LABELS, "tagger": FLAGS}.items():
        model = AutoModelForSequenceClassification.from_pretrained(heads / name).eval()
        tokenizer = AutoTokenizer.from_pretrained(heads / name)
        logits = []
        for text in texts:
            inputs = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
            with torch.no_grad():
                logits.append(model(**inputs).logits[0])
        answers[name] = [
            {label for label, z in zip(labels, own, strict=True) if torch.sigmoid(z) >= 0.5}
            if name == "tagger"
            else labels[int(own.argmax())]
            for own in logits
        ]
    return answers


def test_heads_are_measured_on_the_texts_that_have_gold_labels_for_them(evaluated, rows, given):
    heads = evaluated["heads"]
    assert evaluated["n_texts"] == 60
    assert {name: head["n_texts"] for name, head in heads.items()} == {
        "topic": 60, "priority": sum(row["priority"] != "" for row in rows), "flags": 60,
    }  # fmt: skip
    for name in ("topic", "priority"):
        pairs = [(row[name], answer) for row, answer in zip(rows, given[f"student {name}"], strict=True) if row[name]]
        assert heads[name]["student"]["fp32"]["accuracy"] == pytest.approx(np.mean([g == a for g, a in pairs]))
        for label, found in heads[name]["student"]["fp32"]["labels"].items():
            assert found["n_gold"] == sum(g == label for g, _ in pairs)
    gold = [set(filter(None, row["flags"].split(";"))) for row in rows]
    flags = heads["flags"]["student"]["fp32"]
    assert flags["accuracy"] == pytest.approx(
        np.mean([g == a for g, a in zip(gold, given["student flags"], strict=True)])
    )
    assert set(flags["labels"]) == set(FLAGS)
    assert "risk_coverage" in flags
    assert flags["risk_coverage"] is None


def test_beside_the_only_teacher_of_a_head_all_texts_count(evaluated, rows, given):
    triples = list(zip([row["topic"] for row in rows], given["topic"], given["student topic"], strict=True))
    teacher = evaluated["heads"]["topic"]["teachers"]["topic"]
    found = teacher["student"]["fp32"]
    assert teacher["as_built"] is True
    assert teacher["accuracy"] == pytest.approx(np.mean([g == t for g, t, _ in triples]))
    assert found["n_texts"] == 60
    assert found["agreement"] == pytest.approx(np.mean([t == s for _, t, s in triples]))
    assert found["student_right"] == sum(t != s == g for g, t, s in triples)
    assert found["teacher_right"] == sum(s != t == g for g, t, s in triples)
    assert found["neither_right"] == sum(len({g, t, s}) == 3 for g, t, s in triples)
    for example in teacher["examples"].get("teacher_right", ()):
        assert example["gold"] == example["teacher"] != example["student"]


@pytest.mark.parametrize("name", ["urgent", "calm"])
def test_of_several_teachers_each_has_the_texts_of_its_labels(evaluated, rows, given, name):
    triples = [
        (row["priority"], teacher, student)
        for row, teacher, student in zip(rows, given[name], given["student priority"], strict=True)
        if row["priority"] in LABELS[name]
    ]
    teacher = evaluated["heads"]["priority"]["teachers"][name]
    found = teacher["student"]["fp32"]
    assert (teacher["n_texts"], found["n_texts"]) == (len(triples), len(triples))
    assert teacher["accuracy"] == pytest.approx(np.mean([g == t for g, t, _ in triples]))
    assert found["agreement"] == pytest.approx(np.mean([t == s for _, t, s in triples]))
    assert found["accuracy"] == pytest.approx(np.mean([g == s for g, _, s in triples]))


def test_sets_of_labels_agree_as_a_whole_and_label_by_label(evaluated, given):
    pairs = list(zip(given["tagger"], given["student flags"], strict=True))
    found = evaluated["heads"]["flags"]["teachers"]["tagger"]["student"]["fp32"]
    assert found["agreement"] == pytest.approx(np.mean([t == s for t, s in pairs]))
    for label in FLAGS:
        assert found["labels"][label] == pytest.approx(np.mean([(label in t) == (label in s) for t, s in pairs]))


def test_the_build_measured_the_same_beside_its_teachers(heads, evaluated):
    recorded = json.loads((heads / "student" / "amalgam.json").read_text("utf-8"))["evaluation"]["heads"]
    for name, head in evaluated["heads"].items():
        for teacher, row in head["teachers"].items():
            assert "examples" not in recorded[name]["teachers"][teacher]  # texts do not travel with a bundle
            expected = {key: row[key] for key in recorded[name]["teachers"][teacher] if key != "student"}
            assert {**recorded[name]["teachers"][teacher], "student": None} == {**expected, "student": None}
            assert recorded[name]["teachers"][teacher]["student"]["fp32"] == row["student"]["fp32"]
    for page in ("report.html", "README.md"):
        assert "student right" in (heads / "student" / page).read_text("utf-8")


def test_texts_without_gold_labels_are_enough_beside_teachers(invoke, heads, given):
    options = ["--data", heads / "corpus.txt", *teachers_of(heads), "--precision", "fp32"]
    result = invoke("evaluate", heads / "student", *options, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["heads"]
    assert {name: (head["n_texts"], head["student"]) for name, head in found.items()} == dict.fromkeys(found, (0, {}))
    own = [(t, s) for t, s in zip(given["calm"], given["student priority"], strict=True) if s in LABELS["calm"]]
    beside = found["priority"]["teachers"]["calm"]
    assert beside["student"]["fp32"]["n_texts"] == len(own)
    assert beside["student"]["fp32"]["agreement"] == pytest.approx(np.mean([t == s for t, s in own]))
    assert beside["accuracy"] is None
    shown = invoke("evaluate", heads / "student", *options)
    assert "NLL" not in shown.output
    assert "teacher right" in shown.output


def test_a_limit_that_is_missed_is_status_3_and_says_by_how_much(invoke, heads, evaluated):
    options = [
        "evaluate",
        heads / "student",
        "--data",
        heads / "corpus.txt",
        "--precision",
        "fp32",
        *teachers_of(heads),
    ]
    agreement = evaluated["heads"]["topic"]["teachers"]["topic"]["student"]["fp32"]["agreement"]
    kept = invoke(*options, "--min-agreement", f"topic={agreement}")
    assert kept.exit_code == 0, kept.output
    missed = invoke(*options, "--min-agreement", f"topic={agreement + 0.01}", "--min-agreement", "flags=0", "--json")
    assert missed.exit_code == LIMIT_MISSED
    assert json.loads(missed.stdout)["heads"]
    (line,) = [line for line in missed.stderr.splitlines() if line.startswith("--min-agreement")]
    assert line == (
        f"--min-agreement: head 'topic' (fp32) agrees with teacher 'topic' on {agreement:.2%} of 60 texts, "
        f"1.00 points below {agreement + 0.01:.2%}"
    )


def test_columns_have_any_name(invoke, heads, rows, tmp_path, evaluated):
    path = tmp_path / "other.jsonl"
    named = [{"text": row["text"], "t": row["topic"], "f": [*filter(None, row["flags"].split(";"))]} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in named), "utf-8")
    options = ["--label-column", "topic=t", "--label-column", "flags=f", "--precision", "fp32", "--json"]
    found = json.loads(invoke("evaluate", heads / "student", "--data", path, *options).stdout)["heads"]
    assert set(found) == {"topic", "flags"}
    same = api.evaluate(heads / "student", path, label_column={"topic": "t", "flags": "f"}, precisions=["fp32"])
    for name, head in found.items():
        assert head["student"] == evaluated["heads"][name]["student"]
        assert same.heads[name].student["fp32"].accuracy == head["student"]["fp32"]["accuracy"]
    with pytest.raises(AmalgamError, match="no head 'area'; there are topic, priority, flags"):
        api.evaluate(heads / "student", path, label_column={"area": "t"})


def test_thresholds_are_by_head(invoke, mistake, heads):
    options = ["evaluate", heads / "student", "--data", heads / "labelled.csv", "--precision", "fp32"]
    found = json.loads(invoke(*options, "--abstain", "topic=1", "--json").stdout)["heads"]
    assert found["topic"]["student"]["fp32"]["answered"] == 0
    assert "answered" not in found["priority"]["student"]["fp32"]
    assert "head 'flags' gives every label that holds" in mistake(*options, "--abstain", "flags=0.5")
    assert "abstain is a score between 0 and 1" in mistake(*options, "--abstain", "2")


def with_manifest(heads, folder, change):
    """A copy of the bundle with another manifest."""
    shutil.copytree(heads / "student", folder)
    manifest = json.loads((folder / "amalgam.json").read_text("utf-8"))
    change(manifest)
    (folder / "amalgam.json").write_text(json.dumps(manifest), "utf-8")
    return folder


def test_bundles_are_compared_head_by_head_and_label_by_label(invoke, heads, rows, given, tmp_path):
    """The other one has no topic, but an area; and what was called spam it calls junk."""

    def change(manifest):
        manifest["heads"][0]["name"] = "area"
        manifest["teachers"][0]["head"] = "area"
        manifest["heads"][2]["labels"][2]["name"] = "junk"

    other = with_manifest(heads, tmp_path / "other", change)
    options = [
        "evaluate",
        heads / "student",
        "--data",
        heads / "labelled.csv",
        "--compare",
        other,
        "--precision",
        "fp32",
    ]
    found = json.loads(invoke(*options, "--json").stdout)["comparison"]
    assert found["missing_heads"] == ["topic"]
    assert list(found["heads"]) == ["priority", "flags"]
    gold = [set(filter(None, row["flags"].split(";"))) for row in rows]
    assert found["heads"]["flags"]["missing_labels"] == {"spam": sum("spam" in labels for labels in gold)}
    pairs = list(zip(gold, given["student flags"], strict=True))
    compared = found["heads"]["flags"]["models"]["fp32"]
    assert compared["accuracy"] == pytest.approx(np.mean([g == s for g, s in pairs]))
    # junk is none of our labels, so an answer with it is wrong too
    assert compared["other_accuracy"] == pytest.approx(np.mean([g == s and "spam" not in g | s for g, s in pairs]))
    shown = invoke(*options).output
    assert f"{other} has no head topic" in shown
    assert f"flags: {other} does not know 'spam'" in shown


def test_bundles_without_a_head_in_common_are_not_compared(mistake, heads, built, inputs):
    options = ["evaluate", heads / "student", "--data", heads / "labelled.csv", "--compare", built.bundle]
    assert "has none of the heads topic, priority, flags; it has label" in mistake(*options)


def test_what_cannot_be_measured_is_said(mistake, heads, tmp_path):
    evaluate = ["evaluate", heads / "student", "--data", heads / "labelled.csv"]
    assert "no column 'area'; it has 'text', 'topic'" in mistake(*evaluate, "--label-column", "topic=area")
    assert "name the head, as HEAD=COLUMN; there are topic" in mistake(*evaluate, "--label-column", "area=topic")
    assert "head 'topic' is named twice" in mistake(
        *evaluate, "--label-column", "topic=topic", "--label-column", "topic=flags"
    )
    unknown = mistake(*evaluate, "--label-column", "topic=priority")
    assert "head 'topic': " in unknown
    assert "known are billing, shipping, product" in unknown
    several = tmp_path / "several.jsonl"
    several.write_text('{"text": "parcel", "topic": ["billing", "product"]}\n', "utf-8")
    of_several = ["evaluate", heads / "student", "--data", several, "--label-column", "topic=topic"]
    assert "head 'topic' gives one label, and a text has several: billing, product" in mistake(*of_several)
    bare = ["evaluate", heads / "student", "--data", heads / "corpus.txt"]
    assert "no column 'topic'" in mistake(*bare)
    topic = ["--teacher", f"topic={heads / 'topic'}"]
    assert "there are no gold labels" in mistake(*bare, *topic, "--compare", heads / "student")


def test_teachers_that_cannot_be_set_beside_are_said(mistake, heads):
    evaluate = ["evaluate", heads / "student", "--data", heads / "labelled.csv", "--precision", "fp32"]
    topic = ["--teacher", f"topic={heads / 'topic'}"]
    assert "no teacher to agree with; name it with --teacher" in mistake(*evaluate, "--min-agreement", "0.9")
    assert "a share between 0 and 1 is expected, not 90" in mistake(*evaluate, *topic, "--min-agreement", "90")
    assert "a share between 0 and 1 is expected, not nan" in mistake(*evaluate, *topic, "--min-agreement", "nan")
    limit = mistake(*evaluate, *topic, "--min-agreement", "area=0.9")
    assert "no teacher of that head was named; the heads that stand beside a teacher: topic" in limit
    stranger = mistake(*evaluate, "--teacher", f"area={heads / 'topic'}")
    assert "--teacher area: " in stranger
    assert "it was built from: topic, urgent, calm, tagger" in stranger
    other = mistake(*evaluate, "--teacher", f"topic={heads / 'urgent'}")
    assert "no label of " in other
    assert "comes from its class 'low'; known are billing, shipping, product" in other
    assert "two teachers are called 'topic'" in mistake(*evaluate, *topic, *topic)
    assert f"{heads / 'none'}: no such folder" in mistake(*evaluate, "--teacher", f"topic={heads / 'none'}")


def test_a_teacher_of_another_kind_than_its_head_is_said(mistake, heads, make_classifier, tmp_path):
    other = make_classifier(tmp_path / "one", FLAGS, seed=7, layers=1)
    options = ["--data", heads / "labelled.csv", "--precision", "fp32", "--teacher", f"tagger={other}"]
    assert "answers by softmax and head 'flags' by sigmoid" in mistake("evaluate", heads / "student", *options)


def test_another_teacher_of_that_name_is_measured_and_said(invoke, heads, make_classifier, tmp_path):
    other = make_classifier(tmp_path / "topic", LABELS["topic"], seed=11, layers=1, dropout=0.0)  # it samples nothing
    options = ["--data", heads / "labelled.csv", "--precision", "fp32", "--teacher", f"topic={other}"]
    result = invoke("evaluate", heads / "student", *options)
    assert result.exit_code == 0, result.output
    assert "teacher 'topic' is not the one that the bundle was built from" in result.output
    found = json.loads(invoke("evaluate", heads / "student", *options, "--json").stdout)["heads"]
    assert found["topic"]["teachers"]["topic"]["as_built"] is False
