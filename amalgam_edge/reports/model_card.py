"""The bundle's README.md: a model card that the Hub understands."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

import yaml

from amalgam_edge.heads import SOFTMAX
from amalgam_edge.reports.bundle_tables import calibration_lines, cascade_line, precision_table, teacher_table
from amalgam_edge.reports.evaluation_tables import TEACHERS_NOTE, evaluation_table, teachers_table
from amalgam_edge.runtime.manifest import Manifest
from amalgam_edge.runtime.manifest_models import BuildEvaluation, ModelAccuracy
from amalgam_edge.shown_text import line, markdown
from amalgam_edge.storage.files import HUB_DATASETS

_TAGS = ["onnx", "text-classification", "knowledge-amalgamation", "transformers.js"]

_CARD = """---
{metadata}---
# {title}

One classifier over {contents}, merged from {n_teachers} teacher(s) without labelled text by
amalgam-edge (method {method}; arXiv 2112.07327).

```python
from amalgam_edge import EdgeClassifier

classifier = EdgeClassifier.from_pretrained("{folder}")
print(classifier(["some text"])[0])
```

## Labels

{labels}

## Precisions

Agreement with {compared_with} on {n_gate} texts held out from training; latency of one text at a time on the machine
that built the bundle. The starred one is the default.

{precisions}
{cascade}
## Teachers

{teachers}
{evaluation}{scores}
## Limits

The student knows what its teachers knew, on texts like those it was distilled from ({n_texts} texts). It gives one of
its labels to every text{answered}, also to one that belongs to none of them. Texts are cut to {max_length}
tokens.{vocabulary}
"""

_VOCABULARY = """ It
knows {n_tokens} of its encoder's {n_before} tokens; words that its corpus did not use are read in smaller pieces."""


def render_model_card(manifest: Manifest, folder: str) -> str:
    """The card as Markdown.

    Args:
        manifest: The bundle's manifest.
        folder: The bundle's name, for the example.
    """
    evaluation, vocabulary = manifest.evaluation, manifest.vocabulary
    measured = _evaluation(evaluation) if evaluation else ""
    return _CARD.format(
        metadata=yaml.safe_dump(card_metadata(manifest, folder), sort_keys=False, allow_unicode=True),
        title=folder,
        folder=folder,
        contents=_contents(manifest),
        n_teachers=len(manifest.teachers),
        method=markdown(manifest.method),
        labels=_labels(manifest),
        n_gate=manifest.gate.n_texts,
        compared_with=markdown(manifest.gate.compared_with),
        precisions=precision_table(manifest).to_markdown(),
        cascade=f"\n{markdown(_sentence(cascade))}\n" if (cascade := cascade_line(manifest)) else "",
        teachers=teacher_table(manifest).to_markdown(),
        evaluation=measured,
        scores=f"\n## Scores\n\n{_scores(manifest)}\n" if calibration_lines(manifest) else "",
        answered=" that it answers" if any(head.abstain for head in manifest.heads) else "",
        n_texts=manifest.corpus.n_texts,
        max_length=manifest.max_length,
        vocabulary=_VOCABULARY.format(**vars(vocabulary)) if vocabulary else "",
    )


def _evaluation(evaluation: BuildEvaluation) -> str:
    """What was measured on labelled texts, and beside the teachers."""
    teachers = teachers_table(evaluation)
    beside = f"\n{_sentence(TEACHERS_NOTE)}\n\n{teachers.to_markdown()}\n" if teachers.rows else ""
    return f"\n## Evaluation\n\n{evaluation_table(evaluation).to_markdown()}\n{beside}"


def card_metadata(manifest: Manifest, name: str) -> dict[str, Any]:
    """What the Hub reads at the head of a card: teachers that it knows, and what was measured on labelled texts.

    Args:
        manifest: The bundle's manifest.
        name: The model's name.
    """
    metadata: dict[str, Any] = {
        "library_name": "amalgam-edge",
        "pipeline_tag": "text-classification",
        "tags": _TAGS,
    }
    teachers = [teacher.source for teacher in manifest.teachers if teacher.from_hub]
    if teachers:
        metadata["base_model"] = teachers
    evaluation = manifest.evaluation
    measured = _measured(manifest)
    if evaluation and measured:  # not if the model that runs was made after the evaluation
        metadata["model-index"] = [
            {
                "name": name,
                "results": [
                    {
                        "task": {
                            "type": "text-classification",
                            **({"name": name_of_head} if len(manifest.heads) > 1 else {}),
                        },
                        "dataset": _dataset(evaluation.data),
                        "metrics": [
                            {"type": "accuracy", "value": row.accuracy},
                            {"type": "f1", "name": "macro-F1", "value": row.macro_f1},
                        ],
                    }
                    for name_of_head, row in measured.items()
                ],
            }
        ]
    return metadata


def _measured(manifest: Manifest) -> dict[str, ModelAccuracy]:
    """Head → accuracy of the model that runs, on the texts with gold labels for it."""
    heads = manifest.evaluation.heads if manifest.evaluation else {}
    rows = {name: head.student.get(manifest.default_precision) for name, head in heads.items()}
    return {name: row for name, row in rows.items() if row is not None}


def _contents(manifest: Manifest) -> str:
    """What the student answers with."""
    n_labels = f"{len(manifest.answers.labels)} labels"
    return f"{len(manifest.heads)} questions with {n_labels}" if len(manifest.heads) > 1 else n_labels


def _labels(manifest: Manifest) -> str:
    """The labels; of several heads, or where any number may hold, by head."""
    names = {head.name: ", ".join(_code(label.name) for label in head.labels) for head in manifest.heads}
    if manifest.answers.is_one_softmax:
        return next(iter(names.values()))
    kinds = {head.name: "one of" if head.activation == SOFTMAX else "any of" for head in manifest.heads}
    return "\n".join(f"- {_code(name)}, {kinds[name]}: {labels}" for name, labels in names.items())


def _scores(manifest: Manifest) -> str:
    """What temperatures change, a paragraph for each head."""
    return "\n\n".join(markdown(_sentence(line)) for line in calibration_lines(manifest))


def _dataset(data: str) -> dict[str, str]:
    """Labelled texts by their name on the Hub; of others the last part of their path."""
    if data.startswith(HUB_DATASETS):
        name = data.removeprefix(HUB_DATASETS)
        return {"name": name, "type": name}
    return {"name": PurePosixPath(data).name or "labelled texts", "type": "custom"}


def _code(text: str) -> str:
    """A span of code, between more backticks than the text has in a row."""
    shown = line(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    return f"{fence} {shown} {fence}" if "`" in shown else f"{fence}{shown}{fence}"


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."
