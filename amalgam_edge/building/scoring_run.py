"""Teachers and texts in, scores out: what ``amalgam-edge score`` does."""

from __future__ import annotations

from amalgam_edge.building import stages
from amalgam_edge.corpus import read_corpus
from amalgam_edge.errors import AmalgamError
from amalgam_edge.models.teacher import load_teachers
from amalgam_edge.progress import Progress
from amalgam_edge.recipe.recipe import Recipe
from amalgam_edge.scoring.scores import ScoreSummary
from amalgam_edge.scoring.summary import summarise


def score(recipe: Recipe, progress: Progress, *, resume: bool = False) -> list[ScoreSummary]:
    """Score a corpus with teachers, and no more: a store a teacher, in the output folder.

    Args:
        recipe: what to score; what it says of students is ignored.
        progress: told of each step.
        resume: go on with a run that was cut off.

    Raises:
        AmalgamError: a mistake in the recipe or in what it names; nothing that was scored is lost.
    """
    stages.require(recipe, "teachers", "corpus", "output")
    stages.backend_of(recipe)
    progress.begin(2 + stages.n_scoring_steps(recipe))
    with progress.step("reading texts"):
        corpus = read_corpus(recipe.corpus, text_column=recipe.text_column, split=recipe.split)
    with progress.step("loading teachers"):
        teachers = load_teachers(recipe.teachers, dropout=recipe.dropout, max_length=recipe.max_length)
        stores = stages.named_stores(recipe, teachers, corpus)
    for store in stores:
        if store.begun and not resume:
            raise AmalgamError(
                f"{store.folder}: holds scores already; --resume goes on with them, or name another folder"
            )
    stages.score(recipe, teachers, stores, corpus, progress)
    return summarise(stores)
