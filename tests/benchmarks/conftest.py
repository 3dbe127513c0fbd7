"""A group of the amalgamation benchmark with tiny teachers, prepared as the benchmark does it.

The benchmark is imported where it is used, so that tests which do not need it start at once.
"""

import pytest

from amalgam_edge.progress import SilentProgress

LABELS = ("maps", "games", "sound", "fonts")


@pytest.fixture(scope="session")
def tiny_plan():
    """Two teachers of two labels each, and unlabeled texts of which one has a label that no teacher knows."""
    from benchmarks.amalgamation.settings import Plan, teacher_plan
    from tests.support import tiny

    rows = [(f"{text} {k}", LABELS[k % 4]) for k, text in enumerate(5 * tiny.TEXTS)]
    teachers = tuple(teacher_plan(k, LABELS[2 * k : 2 * k + 2], rows[:32]) for k in range(2))
    return Plan(teachers, [*rows[32:64], ("of another domain", None)], rows[64:])


@pytest.fixture(scope="session")
def prepared_group(tiny_plan, tokenizer, make_classifier, random_classifier, tmp_path_factory):
    """The group of the plan: its teachers are fine-tuned for one epoch, its texts scored."""
    from benchmarks.amalgamation import students

    encoder = make_classifier(tmp_path_factory.mktemp("encoder"), LABELS, layers=3)
    study = students.Study(tmp_path_factory.mktemp("runs"), [], epochs=1, teacher_epochs=1, most=None, threads=1)

    def untrained(labels, texts, seed, *, architecture):
        return random_classifier(labels, architecture=architecture, seed=seed, layers=1), tokenizer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(students, "encoder_folder", lambda: str(encoder))
        patch.setattr(students, "untrained", untrained)
        return students.prepare(study, students.Group("x", "two", 0), tiny_plan, SilentProgress())
