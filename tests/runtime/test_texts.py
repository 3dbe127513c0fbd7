"""Texts of every kind that people bring: all give the answers of a list; what is no text is named with its position."""

from __future__ import annotations

import array
import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from amalgam_edge.errors import AmalgamError
from amalgam_edge.metrics.uncertainty import softmax
from amalgam_edge.runtime import EdgeClassifier
from amalgam_edge.runtime.texts import list_texts
from tests.support import tiny

TEXTS = [*tiny.TEXTS[:4], "", "naïve 🐧"]

KINDS = {
    "list": list,
    "tuple": tuple,
    "generator": iter,
    "keys": lambda texts: dict.fromkeys(texts).keys(),
    "numpy strings": np.array,
    "numpy objects": lambda texts: np.array(texts, dtype=object),
    "pandas Series": pd.Series,
    "pandas strings": lambda texts: pd.Series(texts, dtype="string"),
    "pandas categories": lambda texts: pd.Series(texts, dtype="category"),
    "pandas Series with an index of its own": lambda texts: pd.Series(
        texts, index=[f"row {k}" for k in range(len(texts))]
    ),
    "pandas Index": pd.Index,
    "column of a frame": lambda texts: pd.DataFrame({"text": texts, "n": range(len(texts))})["text"],
    "pyarrow": pa.array,
    "pyarrow in chunks": lambda texts: pa.chunked_array([texts[:2], texts[2:]]),
    "column of a table": lambda texts: pa.table({"text": texts})["text"],
    "subclass of str": lambda texts: [np.str_(text) for text in texts],
}


@pytest.fixture(scope="module")
def classifier(bundle_folder):
    return EdgeClassifier.from_pretrained(bundle_folder, precision="fp32", threads=1)


@pytest.mark.parametrize("kind", KINDS)
def test_any_kind_of_texts_is_answered_as_a_list_is(classifier, kind):
    assert classifier(KINDS[kind](TEXTS)) == classifier(TEXTS)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_listed_are_the_texts_in_order(kind):
    assert list_texts(KINDS[kind](TEXTS)) == TEXTS


def test_a_dataset_and_lines_of_a_file(classifier, tmp_path):
    import datasets

    rows = datasets.Dataset.from_dict({"text": TEXTS})
    assert classifier(rows["text"]) == classifier(TEXTS)
    path = tmp_path / "texts.txt"
    path.write_text("chess\nmail\n", "utf-8")
    with path.open(encoding="utf-8") as lines:
        assert len(classifier(lines)) == 2


@pytest.mark.parametrize("one", ["chess", np.str_("chess"), np.array("chess")])
def test_one_string_is_a_list_of_one(classifier, one):
    assert classifier(one) == classifier(["chess"])
    assert classifier.predict(one) == [classifier(["chess"])[0].label]
    assert classifier.predict_proba(one).shape == (1, len(classifier.labels))


@pytest.mark.parametrize(
    ("element", "shown"),
    [
        (None, "None (NoneType)"), (math.nan, "nan (float)"), (b"bytes", "b'bytes' (bytes)"), (5, "5 (int)"),
        (pd.NA, "<NA> (NAType)"), (["chess"], "['chess'] (list)"), (np.float64("nan"), "(float64)"),
        (b"x" * 10**6, "(bytes)"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("position", [0, 2])
def test_what_is_no_string_is_named_with_its_position(classifier, element, shown, position):
    texts = ["chess", "mail", "dice"]
    texts[position] = element
    for ask in (classifier, classifier.predict, classifier.predict_proba, classifier.logits, classifier.run):
        with pytest.raises(AmalgamError) as refused:
            ask(iter(texts))
        message = str(refused.value)
        assert message.startswith(f"texts[{position}] is ")
        assert shown in message
        assert message.endswith("not a string; leave it out, or give '' in its place")
        assert len(message) < 200


@pytest.mark.parametrize(
    "texts",
    [
        pd.Series(["chess", None]), pd.Series(["chess", math.nan]), pd.Series(["chess", None], dtype="string"),
        pa.array(["chess", None]), np.array(["chess", None], dtype=object), np.array(["chess", 5], dtype=object),
    ],
)  # fmt: skip
def test_gaps_in_columns_are_named(classifier, texts):
    with pytest.raises(AmalgamError, match=r"^texts\[1\] is "):
        classifier(texts)


@pytest.mark.parametrize(
    "texts",
    [
        b"chess", bytearray(b"chess"), memoryview(b"chess"), {"text": "chess"}, {"chess", "mail"}, frozenset(["chess"]),
        5, None, 2.5, object(), print, np.array([["chess"]]), pd.DataFrame({"text": ["chess"]}),
        pa.table({"text": ["chess"]}), array.array("i", [1]), np.array(5), pd.Series([1, 2]), [["chess"]],
    ],
    ids=lambda texts: type(texts).__name__,
)  # fmt: skip
def test_what_is_no_sequence_of_texts_is_refused_in_one_line(classifier, texts):
    with pytest.raises(AmalgamError) as refused:
        classifier(texts)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, "8", math.nan, np.int64(0)])
def test_a_batch_has_at_least_one_text(classifier, batch_size):
    for ask in (classifier, classifier.predict, classifier.predict_proba, classifier.logits, classifier.run):
        for texts in (TEXTS, [], "chess"):
            with pytest.raises(AmalgamError, match="batch_size is a number of texts, at least 1"):
                ask(texts, batch_size=batch_size)


def test_integers_of_numpy_are_numbers_of_texts(classifier):
    assert classifier(TEXTS, batch_size=np.int64(2)) == classifier(TEXTS, batch_size=2)


@pytest.mark.parametrize(
    "nothing", [[], (), iter([]), pd.Series([], dtype=object), np.array([], dtype=str), pa.array([], pa.string())]
)
def test_no_texts_have_no_answers(classifier, nothing):
    listed = list_texts(nothing)
    assert classifier(listed) == classifier.predict(listed) == []
    assert classifier.predict_proba(listed).shape == classifier.logits(listed).shape == (0, len(classifier.labels))
    assert classifier.run(listed)[1].shape == (0,)


def test_labels_and_probabilities_are_those_of_the_answers(classifier):
    answers = classifier(TEXTS, all_scores=True)
    assert classifier.predict(TEXTS) == [answer.label for answer in answers]
    probabilities = classifier.predict_proba(TEXTS)
    assert probabilities.dtype == np.float64
    np.testing.assert_allclose(probabilities, softmax(classifier.logits(TEXTS).astype(np.float64)), rtol=1e-12)
    for row, answer in zip(probabilities, answers, strict=True):
        assert dict(zip(classifier.labels, row, strict=True)) == pytest.approx(answer.scores)


def test_below_the_threshold_there_is_no_label_but_probabilities(bundle_folder):
    cautious = EdgeClassifier.from_pretrained(bundle_folder, abstain=1.0, threads=1)
    assert cautious.predict(TEXTS) == [None] * len(TEXTS)
    np.testing.assert_allclose(cautious.predict_proba(TEXTS).sum(axis=1), 1)


def test_a_classifier_and_a_bundle_say_what_they_are(classifier, bundle_folder):
    assert repr(classifier) == (
        f"<EdgeClassifier '{bundle_folder}': fp32, 4 labels ('games', 'science', 'net', 'Straße & 猫')>"
    )
    assert repr(classifier.bundle) == (
        f"<Bundle '{bundle_folder}': version {classifier.bundle.version}, fp32, int8, 4 labels>"
    )


def test_nothing_is_imported_for_texts_that_nobody_brought(bundle_folder):
    code = (
        "import sys; from amalgam_edge.runtime import EdgeClassifier\n"
        "classifier = EdgeClassifier.from_pretrained(sys.argv[1]); classifier.predict('chess')\n"
        "print(sorted({'pandas', 'pyarrow', 'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code, bundle_folder], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
