"""Write the reference of the file formats in ``docs/reference`` from the records that read them.

python docs/make_reference.py           # write it
python docs/make_reference.py --check   # exit status 1 where it is out of date
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from amalgam_edge.runtime.manifest import FORMAT_VERSION, Manifest, TeacherManifest
from amalgam_edge.scoring.scores_manifest import ScoresManifest
from amalgam_edge.storage.record_schema import DIALECT, Entry, entries_of, json_schema, summary_of

REFERENCE = Path(__file__).parent / "reference"

_BUNDLE = """# The bundle's format

<!-- Written by docs/make_reference.py from the docstrings in amalgam_edge/runtime; edit those. -->

A bundle is a folder:

| file | holds |
| --- | --- |
| `amalgam.json` | the manifest, which this page describes |
| `onnx/model.onnx` | the student in float32: `input_ids`, `attention_mask` → `logits`, `probabilities` |
| `onnx/model_quantized.onnx` | the student in int8, where it passed the gate |
| `onnx/model_fp16.onnx`, `_w8`, `_q4`, `_int8_pq` | other precisions, where a budget asked for them |
| `onnx/model_static.onnx` | the static student of a cascade |
| `tokenizer.json`, `tokenizer_config.json`, `config.json` | what transformers, Optimum and transformers.js read |
| `README.md`, `report.html`, `recipe.yaml` | the model card, the report of the build, its recipe |
| `model.safetensors` | the student in torch, with `--include-torch` |

`amalgam.json` is JSON in UTF-8, at most 8 MiB. Its schema is [amalgam.schema.json](amalgam.schema.json); the reader
checks it whole when a bundle is opened, and each file against its SHA-256 when it is used.

**Versions.** `format_version` is {format_version}. Older versions are read as if they had been written in this one: the
labels of a version below 3 are those of a single softmax head, and entries that version 1 had no name for yet are null,
or not known. A newer version is refused with what to install. Later releases may add entries without a new version, so
a reader has to ignore what it does not know.

**Paths** are relative to the folder, with `/` between names; none leads out of it.
"""

_SCORES = """# The format of scores

<!-- Written by docs/make_reference.py from the docstrings in amalgam_edge/scoring; edit those. -->

`amalgam-edge score` writes a folder for each teacher:

| file | holds |
| --- | --- |
| `manifest.json` | what the scores answer to and who wrote them, which this page describes |
| `shard-000000.parquet`, … | the scores of `shard_size` texts each, in the corpus' order |
| `failures/shard-000000.json` | texts of that shard that could not be scored, and why; there only if there are any |

`manifest.json` is JSON in UTF-8, at most 8 MiB. Its schema is [scores.schema.json](scores.schema.json). There may be
at most 1,048,576 shards. [scale.md](../scale.md) describes the shards.
"""


def rendered() -> dict[str, str]:
    """File of the reference → its content."""
    bundle = [_BUNDLE.format(format_version=FORMAT_VERSION), *_sections(Manifest, "## Entries of the manifest")]
    bundle += ["## Exported teachers", _exported_teachers(), *_sections(TeacherManifest, None, described={Manifest})]
    return {
        "bundle-format.md": _page(bundle),
        "scores-format.md": _page([_SCORES, *_sections(ScoresManifest, "## Entries of the manifest")]),
        "amalgam.schema.json": _as_json(_bundle_schema()),
        "scores.schema.json": _as_json(json_schema(ScoresManifest)),
    }


def _exported_teachers() -> str:
    return "`amalgam-edge export-teacher` writes an `amalgam.json` of another kind, with these entries."


def _bundle_schema() -> dict[str, object]:
    """One schema for both kinds, told apart by ``kind``."""
    parts = {cls.__name__: json_schema(cls) for cls in (Manifest, TeacherManifest)}
    definitions: dict[str, object] = {}
    for schema in parts.values():
        definitions |= schema.pop("$defs")
        del schema["$schema"]
    return {
        "$schema": DIALECT,
        "title": "amalgam.json",
        "oneOf": [{"$ref": f"#/$defs/{name}"} for name in parts],
        "$defs": parts | definitions,
    }


def _sections(cls: type, heading: str | None, described: set[type] | None = None) -> list[str]:
    """A table for a record and one for each record in it, in the order in which they are met."""
    parts = [] if heading is None else [heading]
    waiting, met = [cls], {cls, *(described or ())}
    while waiting:
        current = waiting.pop(0)
        entries = entries_of(current)
        if current is not cls:
            parts += [f"### {current.__name__}", summary_of(current)]
        parts.append(_table(entries))
        found = [inner for entry in entries for inner in entry.classes if inner not in met]
        met |= set(found)
        waiting = [*dict.fromkeys(found), *waiting]
    return parts


def _table(entries: list[Entry]) -> str:
    lines = ["| entry | holds | meaning |", "| --- | --- | --- |"]
    for entry in entries:
        holds = entry.holds
        for inner in entry.classes:
            holds = holds.replace(inner.__name__, f"[{inner.__name__}](#{inner.__name__.lower()})")
        may_lack = "" if entry.required else " May be lacking."
        lines.append(f"| `{entry.name}` | {holds} | {entry.description}{may_lack} |")
    return "\n".join(lines)


def _page(parts: list[str]) -> str:
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _as_json(schema: dict[str, object]) -> str:
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    """Write the files, or check them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a file is out of date")
    check = parser.parse_args().check
    stale = []
    for name, content in rendered().items():
        path = REFERENCE / name
        if not path.is_file() or path.read_text("utf-8") != content:
            stale.append(name)
            if not check:
                path.write_text(content, "utf-8")
    if check and stale:
        sys.exit(f"out of date: {', '.join(stale)}; run python docs/make_reference.py")


if __name__ == "__main__":
    main()
