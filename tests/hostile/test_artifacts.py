"""Damaged and hostile files, made from good ones by a seeded generator and read in a process of bounded memory.

Whatever is read, the answer is a result or one line of an AmalgamError: no other error, no crash, no endless work.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.hostile

MOST_MEMORY = 4 * 2**30  # bytes of address space, of which libraries reserve about a half
MOST_SECONDS = 150
VALUES = [
    None, True, -1, 0, 1, 2**31, 2**53 + 1, 10**30, -0.5, 1e308, float("nan"), float("inf"), "", "x" * 100_000, "\x00",
    "../../victim", "/etc/passwd", "C:\\victim", "con", "\ud83d", "\x1b[2J", [], {}, [[]] * 1000,
    {"a": {"b": {"c": []}}},
]  # fmt: skip


def places(document, path=()):
    """Every place in a document, as keys and positions from the outside in."""
    yield path
    inside = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in inside:
        yield from places(value, (*path, key))


def mutated(document, rng):
    """A document with one to three of its values replaced, removed, doubled or renamed."""
    document = json.loads(json.dumps(document))
    for _ in range(rng.randint(1, 3)):
        path = rng.choice([place for place in places(document) if place])
        inside = document
        for key in path[:-1]:
            inside = inside[key]
        change = rng.randrange(4)
        if change == 0:
            del inside[path[-1]]
        elif change == 1 and isinstance(inside, dict):
            inside[str(rng.choice(VALUES))[:50]] = inside.pop(path[-1])
        elif change == 2 and isinstance(inside, list):
            inside.extend(inside * rng.choice([1, 100]))
        else:
            inside[path[-1]] = rng.choice(VALUES)
    return json.dumps(document)


def damaged(content, rng):
    """Bytes of which some are flipped, cut off, taken out or doubled."""
    content = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(content))
        end = min(len(content), start + rng.randint(1, 64))
        change = rng.randrange(4)
        if change == 0:
            content[start] ^= 1 << rng.randrange(8)
        elif change == 1:
            content[start:end] = rng.randbytes(end - start)
        elif change == 2:
            del content[start:end]
        else:
            content[start:start] = content[start:end] * rng.randint(1, 4)
    return bytes(content)


def with_digest(bundle, name):
    """Let the manifest list a file as it is now: its maker would have."""
    path = bundle / "amalgam.json"
    manifest = json.loads(path.read_text("utf-8"))
    manifest["files"][name] = hashlib.sha256((bundle / name).read_bytes()).hexdigest()
    path.write_text(json.dumps(manifest), "utf-8")


# What the child process does with each case; a line for each, so that the last one names the case that killed it.
READ = """
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
from amalgam_edge.errors import AmalgamError
{setup}
answers = open(sys.argv[3], "w", encoding="utf-8")  # libraries write to standard output
for case in sorted(Path(sys.argv[2]).iterdir()):
    print(case.name, end=" ", file=answers, flush=True)
    try:
        read(case)
    except AmalgamError as error:
        assert "\\n" not in str(error) and len(str(error)) < 2100, case
        print("refused", file=answers, flush=True)
    else:
        print("read", file=answers, flush=True)
"""
BUNDLE = """
from amalgam_edge.runtime import EdgeClassifier
from amalgam_edge.reports.model_card import render_model_card
from amalgam_edge.runtime.bundle import Bundle
def read(case):
    bundle = Bundle.open(case)
    render_model_card(bundle.manifest, "student")
    bundle.verify()
    for precision in bundle.precisions[:2]:
        EdgeClassifier(bundle, precision=precision, threads=1)(["a text", "", "x" * 300], all_scores=True)
"""
SCORES = """
from amalgam_edge.scoring.folders import find_stores, verify
from amalgam_edge.scoring.inspection import describe
def read(case):
    verify(case)
    for store in find_stores(case):
        describe(store)
        store.read()
"""


def read_all(cases, setup):
    """Read all cases in a child process; its answers, one for each case."""
    command = [
        sys.executable,
        "-c",
        READ.format(setup=setup),
        str(MOST_MEMORY),
        str(cases),
        str(cases.with_name("answers")),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RUST_BACKTRACE": "0"}
    child = subprocess.run(command, capture_output=True, text=True, timeout=MOST_SECONDS, check=False, env=environment)
    answers = cases.with_name("answers").read_text("utf-8").splitlines()
    assert child.returncode == 0, (answers[-1:], child.stderr[-3000:])
    assert len(answers) == len(list(cases.iterdir()))
    return answers


@pytest.fixture
def cases(tmp_path):
    folder = tmp_path / "cases"
    folder.mkdir()
    return folder


def test_manifests_of_bundles(cases, bundle_folder):
    rng = random.Random(1)
    document = json.loads((bundle_folder / "amalgam.json").read_text("utf-8"))
    for number in range(150):
        case = shutil.copytree(bundle_folder, cases / f"{number:03}", copy_function=os.link)
        (case / "amalgam.json").unlink()
        (case / "amalgam.json").write_text(mutated(document, rng), "utf-8")
    answers = read_all(cases, BUNDLE)
    assert sum(answer.endswith("refused") for answer in answers) > 75


@pytest.mark.parametrize(
    ("name", "seed"), [("tokenizer.json", 2), ("onnx/model.onnx", 3), ("onnx/model_quantized.onnx", 4)]
)
def test_files_of_bundles(cases, bundle_folder, name, seed):
    rng = random.Random(seed)
    content = (bundle_folder / name).read_bytes()
    for number in range(120):
        case = shutil.copytree(bundle_folder, cases / f"{number:03}")
        (case / name).write_bytes(damaged(content, rng))
        with_digest(case, name)
    assert any(answer.endswith("refused") for answer in read_all(cases, BUNDLE))


def test_settings_of_tokenizers(cases, bundle_folder):
    rng = random.Random(5)
    document = json.loads((bundle_folder / "tokenizer.json").read_text("utf-8"))
    for number in range(120):
        case = shutil.copytree(bundle_folder, cases / f"{number:03}")
        (case / "tokenizer.json").write_text(mutated(document, rng), "utf-8")
        with_digest(case, "tokenizer.json")
    read_all(cases, BUNDLE)


def test_folders_of_scores(cases):
    rng = random.Random(6)
    good = Path(__file__).parents[1] / "fixtures" / "scores_v1"
    files = [path.relative_to(good) for path in sorted(good.rglob("*")) if path.is_file()]
    manifests = [file for file in files if file.name == "manifest.json"]
    for number in range(150):
        case = shutil.copytree(good, cases / f"{number:03}")
        if number % 2:
            file = rng.choice(files)
            (case / file).write_bytes(damaged((case / file).read_bytes(), rng))
        else:
            file = rng.choice(manifests)
            (case / file).write_text(mutated(json.loads((case / file).read_text("utf-8")), rng), "utf-8")
    assert any(answer.endswith("refused") for answer in read_all(cases, SCORES))
