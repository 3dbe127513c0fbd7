"""An exported teacher on disk: the model, what reads texts for it, and how to run it without this project."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from amalgam_edge import environment
from amalgam_edge.dropout.masks import round_length
from amalgam_edge.exporters.teacher_export import export_teacher
from amalgam_edge.metrics.uncertainty import SIGMOID, SOFTMAX
from amalgam_edge.models.teacher import Teacher, load_teachers
from amalgam_edge.recipe.recipe import Recipe
from amalgam_edge.recipe.sections import ScoringSettings
from amalgam_edge.runtime.manifest import TEACHER_KIND, TeacherManifest, TeacherSite, write_manifest
from amalgam_edge.runtime.output import check_output
from amalgam_edge.scoring.adaptive_passes import balanced_over
from amalgam_edge.storage.staging import staged

MODEL = "model.onnx"

_README = """# {name}: a teacher with live dropout

`{model}` has the inputs `input_ids`, `attention_mask` (texts × tokens, padded on the right), `mc_pass` and `mc_seed`
(single integers), and the output `logits` (texts × {n_classes}). `mc_pass` -1 is the prediction without dropout; 0, 1,
2 … are passes under dropout, the same ones on every machine. {masks}

```python
import numpy as np, onnxruntime
from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file("tokenizer.json")
tokenizer.enable_padding(pad_id={pad_id}, pad_token="{pad_token}")
tokenizer.enable_truncation({max_length})
session = onnxruntime.InferenceSession("{model}")
texts = tokenizer.encode_batch(["a first text", "a second, longer text"])
ids, mask = (np.array([getattr(text, name) for text in texts]) for name in ("ids", "attention_mask"))
inputs = {{"input_ids": ids, "attention_mask": mask, "mc_seed": np.array(0)}}
runs = [session.run(None, inputs | {{"mc_pass": np.array(k)}})[0] for k in range({passes})]
{uncertainty}
```

Classes: {classes}.
"""

_UNCERTAINTY = {
    SOFTMAX: """p = np.mean([np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in runs], axis=0)
print(-(p * np.log(p)).sum(-1) / np.log(p.shape[-1]))  # normalised entropy: 0 is sure, 1 knows nothing""",
    SIGMOID: """p = np.mean([1 / (1 + np.exp(-x)) for x in runs], axis=0)
print(-(p * np.log2(p) + (1 - p) * np.log2(1 - p)).mean(-1))  # mean binary entropy: 0 is sure, 1 knows nothing""",
}


def write_teacher(recipe: Recipe, *, overwrite: bool = False) -> TeacherManifest:
    """Export a recipe's one teacher into its output folder, whole or not at all; see :func:`export_teacher`.

    The exported teacher's passes are those that scoring with the same recipe runs. The recipe has passed
    :func:`~amalgam_edge.building.checks.check_teacher_export`.

    Args:
        recipe: what to export; what it says of texts and students is ignored.
        overwrite: replace an export that is in the output folder.

    Returns:
        The folder's manifest.

    Raises:
        AmalgamError: there is no such teacher, it has no dropout, it cannot be exported, or the folder is taken.
    """
    output = Path(recipe.output.folder)
    settings = recipe.scoring
    with staged(output, check=partial(check_output, output, overwrite=overwrite, kind=TEACHER_KIND)) as folder:
        (teacher,) = load_teachers(
            recipe.teachers.sources, dropout=recipe.teachers.dropout, max_length=recipe.teachers.max_length
        )
        difference = export_teacher(
            teacher,
            folder / MODEL,
            passes=balanced_over(settings),
            masks=settings.masks,
            half=settings.precision == "fp16",
        )
        teacher.model.config.name_or_path = teacher.tokenizer.name_or_path = ""
        teacher.model.config.save_pretrained(folder)
        teacher.tokenizer.save_pretrained(folder)
        (folder / "README.md").write_text(_readme(teacher, settings), "utf-8")
        manifest = TeacherManifest(
            name=teacher.name,
            fingerprint=teacher.fingerprint,
            classes=teacher.class_names,
            activation=teacher.activation,
            max_length=teacher.max_length,
            round=round_length(balanced_over(settings), settings.masks),
            masks=settings.masks,
            precision=settings.precision,
            dropout_sites=tuple(TeacherSite(site.number, site.module, site.p) for site in teacher.sites),
            difference=difference,
            bytes=sum(file.stat().st_size for file in folder.glob(f"{MODEL}*")),
            versions=environment.installed_versions(),
        )
        return write_manifest(folder, manifest)


def _readme(teacher: Teacher, settings: ScoringSettings) -> str:
    length = round_length(balanced_over(settings), settings.masks)
    return _README.format(
        name=teacher.name,
        model=MODEL,
        n_classes=len(teacher.class_names),
        masks=f"Masks are balanced over each {length} passes in turn." if length > 1 else "",
        pad_id=teacher.tokenizer.pad_token_id,
        pad_token=teacher.tokenizer.pad_token,
        max_length=teacher.max_length,
        passes=settings.most_passes,
        classes=", ".join(teacher.class_names),
        uncertainty=_UNCERTAINTY[teacher.activation],
    )
