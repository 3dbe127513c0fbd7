"""Scoring a corpus with several teachers: on this machine or on a Ray cluster, into stores on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from amalgam_edge.corpus import Corpus
from amalgam_edge.errors import AmalgamError, MissingExtraError
from amalgam_edge.models.teacher import Teacher, load_all
from amalgam_edge.progress import Advance
from amalgam_edge.recipe.sections import ComputeSettings, ScoringSettings, TeacherSettings
from amalgam_edge.scoring.backends import Backend, resolve_backend
from amalgam_edge.scoring.score import PROBE_TEXTS, ReadyTeachers, open_runners, score_corpus, score_key
from amalgam_edge.scoring.store import ScoreStore
from amalgam_edge.steps import Step
from amalgam_edge.storage import files


def choose_backend(compute: ComputeSettings, scoring: ScoringSettings) -> Backend:
    """What runs the teachers.

    Raises:
        AmalgamError: It is not there, or cannot compute in the precision that is asked for.
    """
    backend = resolve_backend(compute.backend, compute.device, compute.threads)
    if scoring.precision == "fp16" and backend.device == "cpu":
        raise AmalgamError("fp16 needs a GPU; use --precision fp32")
    return backend


def scoring_steps(
    names: Sequence[str], scoring: ScoringSettings, compute: ComputeSettings, backend: Backend
) -> list[Step]:
    """The steps that score a corpus: one for each teacher, or one for all that are scored together.

    They need the values ``teachers``, ``stores``, ``corpus``, ``backend`` and the settings of teachers, scoring and
    computing, and fill the stores.

    Args:
        names: Names of the teachers.
        scoring: What scores depend on.
        compute: Where teachers run.
        backend: What runs the teachers, named in titles.
    """
    steps = []
    for group in _teacher_groups(len(names), scoring, compute):
        who = " and ".join(names[group])
        amount = partial(_amount_of_texts, n_teachers=len(names[group]))
        if compute.engine == "ray":
            steps.append(
                Step(_score_on_cluster, title=f"scoring with {who}, {scoring.passes} passes, on Ray", amount=amount)
            )
        else:
            title = f"scoring with {who}, {scoring.passes} passes, {backend}"
            steps.append(Step(partial(_score_locally, group=group), title=title, amount=amount))
    return steps


def _teacher_groups(n_teachers: int, scoring: ScoringSettings, compute: ComputeSettings) -> list[slice]:
    """Which teachers are scored together: all where they share a budget of passes or a cluster, else one by one."""
    if scoring.passes == "auto" or compute.engine == "ray":
        return [slice(0, n_teachers)]
    return [slice(position, position + 1) for position in range(n_teachers)]


def _amount_of_texts(corpus: Corpus, n_teachers: int = 1) -> tuple[int, str]:
    return len(corpus) * n_teachers, "texts"


def _score_locally(
    teachers: Sequence[Teacher],
    stores: Sequence[ScoreStore],
    corpus: Corpus,
    scoring_settings: ScoringSettings,
    backend: Backend,
    advance: Advance,
    *,
    group: slice = slice(None),
) -> None:
    """Score what the stores of some teachers lack, in this process."""
    settings = _with_batch_tokens(scoring_settings, backend)
    signed = [store.for_writer(engine="local", backend=str(backend)) for store in stores[group]]
    score_corpus(teachers[group], signed, corpus, settings, lambda teacher: backend.open(teacher, settings), advance)


def _score_on_cluster(
    stores: Sequence[ScoreStore],
    corpus: Corpus,
    teacher_settings: TeacherSettings,
    scoring_settings: ScoringSettings,
    compute_settings: ComputeSettings,
    advance: Advance,
) -> None:
    """Score what the stores lack on a Ray cluster; each worker loads the teachers itself."""
    try:
        from amalgam_edge.scoring.ray.cluster import Cluster, score_on_ray
    except ImportError as error:
        raise MissingExtraError("--engine ray", "distributed", error) from error
    cluster = Cluster(
        compute_settings.address,
        compute_settings.workers,
        compute_settings.threads or 1,
        gpus=compute_settings.device != "cpu",
    )
    open_there = partial(
        open_teachers, teacher_settings, scoring_settings, compute_settings, corpus.texts[:PROBE_TEXTS]
    )
    score_on_ray(open_there, stores, corpus, cluster, advance)


def open_teachers(
    teacher_settings: TeacherSettings, scoring: ScoringSettings, compute: ComputeSettings, texts: Sequence[str]
) -> ReadyTeachers:
    """Load teachers on the machine where this runs, and prove on some texts that their dropout is alive.

    Raises:
        AmalgamError: A teacher cannot be loaded, or its dropout is dead.
    """
    teachers = load_all(teacher_settings)
    backend = choose_backend(replace(compute, threads=compute.threads or 1), scoring)
    settings = _with_batch_tokens(scoring, backend)
    runners = open_runners(teachers, lambda teacher: backend.open(teacher, settings), texts)
    return ReadyTeachers(teachers, runners, settings, str(backend))


def cached_stores(
    work_folder: Path, teachers: Sequence[Teacher], corpus: Corpus, scoring: ScoringSettings
) -> list[ScoreStore]:
    """Stores in the work folder, named by a fingerprint of all that scores depend on, for later builds to find."""
    keys = [score_key(teacher, teachers, corpus, scoring) for teacher in teachers]
    return [ScoreStore(work_folder / "scores" / f"{key.teacher}-{key.fingerprint[:12]}", key) for key in keys]


def named_stores(
    output: str, teachers: Sequence[Teacher], corpus: Corpus, scoring: ScoringSettings
) -> list[ScoreStore]:
    """Stores in an output folder, named by their teachers, for people to find."""
    keys = [score_key(teacher, teachers, corpus, scoring) for teacher in teachers]
    return [ScoreStore(files.join(files.locate(output), key.teacher), key) for key in keys]


def _with_batch_tokens(scoring: ScoringSettings, backend: Backend) -> ScoringSettings:
    """The settings with as many tokens per batch as the backend runs best, unless the user said how many."""
    return replace(scoring, batch_tokens=scoring.batch_tokens or backend.batch_tokens)
