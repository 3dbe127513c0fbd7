"""The bundle's README.md: a model card that the Hub understands."""

from __future__ import annotations

from typing import Any

from amalgam_edge.tables import cascade_line, evaluation_table, precision_table, teacher_table

_CARD = """---
library_name: amalgam-edge
pipeline_tag: text-classification
tags: [onnx, text-classification, knowledge-amalgamation, transformers.js]
---
# {title}

One classifier over {n_labels} labels, merged from {n_teachers} teacher(s) without labelled text by
amalgam-edge (method {method}; arXiv 2112.07327).

```python
from amalgam_edge import EdgeClassifier

classifier = EdgeClassifier.from_pretrained("{folder}")
print(classifier(["some text"])[0])
```

## Labels

{labels}

## Precisions

Agreement with the float model on {n_gate} texts held out from training; latency of one text at a time on the machine
that built the bundle. The starred one is the default.

{precisions}
{cascade}
## Teachers

{teachers}
{evaluation}
## Limits

The student knows what its teachers knew, on texts like those it was distilled from ({n_texts} texts). It gives one of
its labels to every text, also to one that belongs to none of them. Texts are cut to {max_length} tokens.{vocabulary}
"""

_VOCABULARY = """ It
knows {n_tokens} of its encoder's {n_before} tokens; words that its corpus did not use are read in smaller pieces."""


def render_model_card(manifest: dict[str, Any], folder: str) -> str:
    """The card as Markdown.

    Args:
        manifest: the content of ``amalgam.json``.
        folder: the bundle's name, for the example.
    """
    evaluation = manifest["evaluation"]
    measured = f"\n## Evaluation\n\n{evaluation_table(manifest).to_markdown()}\n" if evaluation else ""
    return _CARD.format(
        title=folder,
        folder=folder,
        n_labels=len(manifest["labels"]),
        n_teachers=len(manifest["teachers"]),
        method=manifest["recipe"]["method"],
        labels=", ".join(f"`{label['name']}`" for label in manifest["labels"]),
        n_gate=manifest["gate"]["n_texts"],
        precisions=precision_table(manifest).to_markdown(),
        cascade=f"\n{line[0].upper()}{line[1:]}.\n" if (line := cascade_line(manifest)) else "",
        teachers=teacher_table(manifest).to_markdown(),
        evaluation=measured,
        n_texts=manifest["corpus"]["n_texts"],
        max_length=manifest["max_length"],
        vocabulary=_VOCABULARY.format(**manifest["vocabulary"]) if manifest.get("vocabulary") else "",
    )
