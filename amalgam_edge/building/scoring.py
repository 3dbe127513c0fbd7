"""Teachers and texts in, scores out: what ``amalgam-edge score`` does."""

from __future__ import annotations

from collections.abc import Sequence

from amalgam_edge.building.checks import settings_by_name, teacher_names
from amalgam_edge.corpus import Corpus, read_corpus
from amalgam_edge.errors import AmalgamError
from amalgam_edge.inference.devices import limit_threads
from amalgam_edge.models.teacher import Teacher, load_all
from amalgam_edge.progress import Progress
from amalgam_edge.recipe.recipe import Recipe
from amalgam_edge.recipe.sections import CorpusSettings, OutputSettings, ScoringSettings
from amalgam_edge.scoring.run import choose_backend, named_stores, scoring_steps
from amalgam_edge.scoring.scores import ScoreSummary
from amalgam_edge.scoring.store import ScoreStore
from amalgam_edge.scoring.summary import summarise
from amalgam_edge.steps import Step, run_steps


def score_texts(recipe: Recipe, progress: Progress, *, resume: bool = False) -> list[ScoreSummary]:
    """Score a corpus with teachers, and no more: a store for each teacher, in the output folder.

    The recipe has passed :func:`~amalgam_edge.building.checks.check_scoring`.

    Args:
        recipe: What to score; what it says of students is ignored.
        progress: Told of each step.
        resume: Go on with a run that was interrupted.

    Raises:
        AmalgamError: A mistake in the recipe or in what it names; nothing that was scored is lost.
    """
    backend = choose_backend(recipe.compute, recipe.scoring)
    limit_threads()
    values = {**settings_by_name(recipe), "backend": backend, "resume": resume}
    steps = [
        Step(_read_corpus, makes="corpus", title="reading texts"),
        Step(load_all, makes="teachers", title="loading teachers"),
        Step(_open_stores, makes="stores"),
        *scoring_steps(teacher_names(recipe.teachers), recipe.scoring, recipe.compute, backend),
        Step(summarise, makes="summaries"),
    ]
    summaries: list[ScoreSummary] = run_steps(steps, values, progress)["summaries"]
    return summaries


def _read_corpus(corpus_settings: CorpusSettings) -> Corpus:
    return read_corpus(corpus_settings.source, text_column=corpus_settings.text_column, split=corpus_settings.split)


def _open_stores(
    teachers: Sequence[Teacher],
    corpus: Corpus,
    scoring_settings: ScoringSettings,
    output_settings: OutputSettings,
    resume: bool,
) -> list[ScoreStore]:
    stores = named_stores(output_settings.folder, teachers, corpus, scoring_settings)
    for store in stores:
        if store.begun and not resume:
            raise AmalgamError(
                f"{store.folder}: holds scores already; --resume goes on with them, or name another folder"
            )
    return stores
