"""Two teachers and a corpus that they are asked about."""

import pytest

from amalgam_edge.corpus import read_corpus
from amalgam_edge.models.teacher import load_teacher
from tests.support import tiny


@pytest.fixture(scope="module")
def teacher(classifier_folder):
    return load_teacher("t", str(classifier_folder), max_length=32)


@pytest.fixture(scope="module")
def other(other_classifier_folder):
    return load_teacher("other", str(other_classifier_folder), max_length=24)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "texts.txt"
    path.write_text("\n".join(tiny.TEXTS), "utf-8")
    return read_corpus(str(path))
