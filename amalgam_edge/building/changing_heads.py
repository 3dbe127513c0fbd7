"""Adding, replacing or dropping one head of a finished bundle without moving the others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from amalgam_edge.building import inputs
from amalgam_edge.building.candidates import CALIBRATION_TEXTS
from amalgam_edge.building.cascading import renew_cascade
from amalgam_edge.building.checks import settings_by_name, teacher_names
from amalgam_edge.building.data import BuildTexts
from amalgam_edge.building.head_checks import HeadRequest
from amalgam_edge.building.head_manifest import ChangedModels, describe_changed, describe_model
from amalgam_edge.building.head_models import (
    HeadOrder,
    change_model,
    largest_difference,
    require_equal,
    texts_of_vocabulary,
)
from amalgam_edge.building.heads import require_heads, taught_heads
from amalgam_edge.building.new_head import FrozenEncoder, NewHead, fit_new_head, fit_static_layer
from amalgam_edge.corpus import Corpus
from amalgam_edge.errors import AmalgamError
from amalgam_edge.exporters.selection.fidelity import measure_fidelity
from amalgam_edge.exporters.selection.latency import measure_latency
from amalgam_edge.inference.devices import limit_threads
from amalgam_edge.methods import method_named
from amalgam_edge.methods.taught_heads import TaughtHeads
from amalgam_edge.models.teacher import Teacher, load_all
from amalgam_edge.progress import Progress, Say
from amalgam_edge.recipe.sections import (
    CorpusSettings,
    ExportSettings,
    MethodSettings,
    ScoringSettings,
    TeacherSettings,
    TrainingSettings,
)
from amalgam_edge.reports.build_report import render_front
from amalgam_edge.reports.model_card import render_model_card
from amalgam_edge.runtime.bundle import CARD, REPORT, TOKENIZER, TORCH_STUDENT, Bundle, model_files
from amalgam_edge.runtime.manifest import Manifest, write_manifest
from amalgam_edge.runtime.manifest_models import Cascade
from amalgam_edge.runtime.output import check_output
from amalgam_edge.runtime.publishing import copy_files
from amalgam_edge.runtime.text_model import TextModel
from amalgam_edge.scoring.run import cached_stores, choose_backend, scoring_steps
from amalgam_edge.scoring.store import ScoreStore
from amalgam_edge.steps import Step, run_steps
from amalgam_edge.storage.json_text import parse_json
from amalgam_edge.storage.own_files import FileContent
from amalgam_edge.storage.staging import staged
from amalgam_edge.training.head_start import evenly_spaced

_CONFIG = "config.json"
_MOST_CONFIG_BYTES = 64 * 2**20


def change_head(bundle: Bundle, request: HeadRequest, progress: Progress) -> Bundle:
    """Write a bundle with one head added, replaced or dropped, whole or not at all.

    Args:
        bundle: The bundle, which is replaced if the output is its own folder.
        request: What is to be done; it has passed :func:`~amalgam_edge.building.head_checks.request_head`.
        progress: Told of each step.

    Returns:
        The new bundle.

    Raises:
        AmalgamError: A teacher cannot be loaded, the texts cannot be read, a file of the bundle is damaged, or a model
            would answer otherwise in its other heads.
    """
    recipe = request.recipe
    output = Path(recipe.output.folder)
    is_elsewhere = output.resolve() != bundle.folder.resolve()
    check = partial(check_output, output, overwrite=not is_elsewhere)
    check()
    is_new = request.action != "drop"
    backend = choose_backend(recipe.compute, recipe.scoring) if is_new else None
    limit_threads()
    fitting = [
        Step(load_all, makes="teachers", title="loading teachers"),
        Step(_head_of_teachers, makes="heads"),
        Step(_corpus, makes="corpus"),
        Step(_stores, makes="stores"),
        *(scoring_steps(teacher_names(recipe.teachers), recipe.scoring, recipe.compute, backend) if backend else []),
        Step(_read_scores, makes="scores"),
        Step(_drop_unscored, makes="texts"),
        Step(_fit, makes="new_head", title=f"fitting head '{request.head}'"),
    ]
    steps = [
        *([Step(inputs.read_texts, makes="texts", title="reading texts")] if request.has_texts else []),
        *(fitting if is_new else []),
        Step(_order, makes="order"),
        Step(_copy_rest),
        Step(_write_models, makes="models", title="changing the models, and comparing the other heads' answers"),
        *([Step(_measure, makes="models", title="measuring")] if request.has_texts else []),
        *([Step(_change_cascade, makes="cascade", title="setting the cascade's threshold")] if bundle.cascade else []),
        Step(_write_bundle, title="writing the bundle"),
    ]
    with staged(output, check=check) as folder:
        values: dict[str, Any] = {
            **settings_by_name(recipe),
            "bundle": bundle,
            "request": request,
            "backend": backend,
            "work_folder": recipe.work_folder,
            "output": output,
            "folder": folder,
            "texts": None,
            "new_head": None,
            "cascade": bundle.manifest.cascade,
        }
        run_steps(steps, values, progress)
    return Bundle.open(output)


def _head_of_teachers(
    teachers: Sequence[Teacher],
    teacher_settings: TeacherSettings,
    training_settings: TrainingSettings,
    export_settings: ExportSettings,
    method_settings: MethodSettings,
    say: Say,
) -> TaughtHeads:
    heads = taught_heads(teachers, teacher_settings, training_settings, export_settings)
    require_heads(method_named(method_settings.name), heads)
    for taught in heads:
        for warning in taught.labels.warnings:
            say(f"warning: {warning}")
    return heads


def _corpus(texts: BuildTexts) -> Corpus:
    return texts.corpus


def _stores(
    teachers: Sequence[Teacher], corpus: Corpus, scoring_settings: ScoringSettings, work_folder: Path
) -> list[ScoreStore]:
    return cached_stores(work_folder, teachers, corpus, scoring_settings)


def _read_scores(stores: Sequence[ScoreStore]) -> list[Any]:
    return [store.read() for store in stores]


def _drop_unscored(
    texts: BuildTexts, scores: list[Any], corpus_settings: CorpusSettings, work_folder: Path, say: Say
) -> BuildTexts:
    """The texts that all teachers scored; the scores of the others are dropped, in place."""
    rows = inputs.rows_with_scores(scores, work_folder, say)
    if len(rows) == len(texts.corpus):
        return texts
    scores[:] = [one.take(rows) for one in scores]
    return inputs.take_texts(texts, rows, corpus_settings.held_out)


def _fit(
    bundle: Bundle,
    texts: BuildTexts,
    teachers: Sequence[Teacher],
    heads: TaughtHeads,
    scores: Sequence[Any],
    method_settings: MethodSettings,
    export_settings: ExportSettings,
) -> NewHead:
    encoder = FrozenEncoder.read(bundle, bundle.model_name("fp32"))
    return fit_new_head(encoder, texts, teachers, heads, scores, method_settings, export_settings)


def _order(bundle: Bundle, request: HeadRequest, new_head: NewHead | None) -> HeadOrder:
    if new_head is None:
        return HeadOrder.dropping(bundle.heads, request.head)
    return HeadOrder.putting(bundle.heads, new_head.head)


def _copy_rest(bundle: Bundle, order: HeadOrder, folder: Path, say: Say) -> None:
    """Copy what no head is in, and write the config with the labels that there are now."""
    left_out = {*model_files(bundle.manifest), _CONFIG, TORCH_STUDENT}
    files = [name for name in bundle.manifest.files if name not in left_out]
    copy_files(bundle, folder, [name for name in files if not bundle.may_lack(name) or bundle.has(name)])
    if TORCH_STUDENT in bundle.manifest.files:
        say(f"{TORCH_STUDENT} is left out: it has the heads that the bundle was built with")
    if _CONFIG in bundle.manifest.files:
        config = parse_json(bundle.read(_CONFIG).content, _MOST_CONFIG_BYTES)
        labels = order.after.labels
        config |= {
            "id2label": {str(position): label for position, label in enumerate(labels)},
            "label2id": {label: position for position, label in enumerate(labels)},
            "problem_type": order.after.problem_type,
        }
        (folder / _CONFIG).write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    for name in bundle.precisions:
        if not bundle.has(bundle.model_name(name)):
            say(f"{name} is left out: {bundle.folder / bundle.model_name(name)} is not there")


def _write_models(
    bundle: Bundle,
    request: HeadRequest,
    order: HeadOrder,
    new_head: NewHead | None,
    texts: BuildTexts | None,
    folder: Path,
) -> ChangedModels:
    """Change the models of all precisions, and prove that the other heads' answers are equal to the bit."""
    tokenizer = bundle.read(TOKENIZER)
    proof = texts.corpus.take(texts.held_out) if texts else texts_of_vocabulary(tokenizer.content)
    hidden = FrozenEncoder.read(bundle, bundle.model_name("fp32")).hidden.name if new_head else ""
    layer = new_head.layer if new_head else None
    precisions, differences = {}, []
    for name in bundle.available_precisions():
        before = bundle.read_model(name)
        try:
            content = change_model(before.content, order, layer, "" if name == "fp32" else hidden)
        except AmalgamError as error:
            raise AmalgamError(f"{before.path}: {error}") from error
        file = folder / bundle.model_name(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        was, now = (_open(bundle, model) for model in (before, FileContent.read(file)))
        differences.append(largest_difference(was, now, proof, order))
        require_equal(str(before.path), differences[-1])
        precisions[name] = describe_model(bundle.manifest.precisions[name], file, order)
    return ChangedModels(precisions, tuple(precisions), len(proof), max(differences))


def _open(bundle: Bundle, model: FileContent) -> TextModel:
    manifest = bundle.manifest
    return TextModel(model, bundle.read(TOKENIZER), max_length=manifest.max_length, pad_token_id=manifest.pad_token_id)


def _measure(
    bundle: Bundle,
    request: HeadRequest,
    models: ChangedModels,
    order: HeadOrder,
    texts: BuildTexts,
    export_settings: ExportSettings,
    folder: Path,
    say: Say,
) -> ChangedModels:
    """Measure all precisions on held-out texts; those that answer otherwise in the new head too often are left out.

    Raises:
        AmalgamError: The default precision would be left out.
    """
    held_out = texts.corpus.take(texts.held_out)
    opened = {name: _open(bundle, FileContent.read(folder / model.file)) for name, model in models.precisions.items()}
    logits = {name: model.run(held_out)[0] for name, model in opened.items()}
    latencies = measure_latency(opened, held_out)
    measured = {}
    for name, model in models.precisions.items():
        fidelity = model.fidelity
        if "fp32" in logits:
            fidelity = measure_fidelity(logits["fp32"], logits[name], order.after).entry()
        disagreement = 1.0 - fidelity.heads.get(request.head, 1.0)
        if disagreement > export_settings.max_disagreement + 1e-9:
            _leave_out(bundle, name, request.head, disagreement, export_settings.max_disagreement, say)
            (folder / model.file).unlink()
            continue
        measured[name] = replace(model, fidelity=fidelity, latency_ms=latencies[name])
    return replace(models, precisions=measured)


def _leave_out(bundle: Bundle, precision: str, head: str, disagreement: float, allowed: float, say: Say) -> None:
    words = f"{precision} answers head '{head}' otherwise than the float model on {disagreement:.2%} of held-out texts"
    if precision == bundle.default_precision:
        raise AmalgamError(f"{words} (allowed: {allowed:.2%}), and it is the default; allow more (--max-disagreement)")
    say(f"{words} (allowed: {allowed:.2%}) and is left out")


def _change_cascade(
    bundle: Bundle,
    order: HeadOrder,
    new_head: NewHead | None,
    models: ChangedModels,
    texts: BuildTexts | None,
    folder: Path,
    say: Say,
) -> Cascade | None:
    """Give the static student the same heads, and measure its threshold for being sure in all of them."""
    cascade, static = bundle.manifest.cascade, bundle.cascade
    assert cascade is not None and static is not None  # noqa: S101  (the step is there for bundles with one)
    if not bundle.has(static.file):
        say(f"no cascade any more: {bundle.folder / static.file} is not there")
        return None
    if texts is None:
        say("no cascade any more: its threshold is for being sure in all heads; name texts to set it by (--corpus)")
        return None
    encoder = _open(bundle, FileContent.read(folder / models.precisions[bundle.default_precision].file))
    train = texts.corpus.take(texts.train[evenly_spaced(len(texts.train))])
    layer = None
    if new_head is not None:
        logits = encoder.run(train)[0][:, order.after.columns(order.changed)]
        layer = fit_static_layer(FrozenEncoder.read(bundle, static.file), train, new_head.head, logits)
    before = bundle.read(static.file)
    file = folder / static.file
    file.write_bytes(change_model(before.content, order, layer))
    held_out = texts.corpus.take(texts.held_out)
    changed = _open(bundle, FileContent.read(file))
    require_equal(str(before.path), largest_difference(_open(bundle, before), changed, held_out, order))
    return renew_cascade(cascade, folder, encoder, order.after, held_out, train[:CALIBRATION_TEXTS], say)


def _write_bundle(
    bundle: Bundle,
    request: HeadRequest,
    order: HeadOrder,
    new_head: NewHead | None,
    models: ChangedModels,
    cascade: Cascade | None,
    output: Path,
    folder: Path,
    say: Say,
) -> Manifest:
    manifest = describe_changed(bundle.manifest, request, order, new_head, models, cascade)
    (folder / CARD).write_text(render_model_card(manifest, output.name), "utf-8")
    (folder / REPORT).write_text(render_front(manifest, "one head changed"), "utf-8")
    if (len(order.before) == 1) != (len(order.after) == 1):
        one, several = order.before.labels[0], order.after.labels[0]
        say(
            f"labels are called otherwise now, such as '{several}' for '{one}'; what the other heads answer is the same"
        )
    return write_manifest(folder, manifest)
