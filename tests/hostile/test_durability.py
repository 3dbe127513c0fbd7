"""Outputs whose disk loses its power, fills up, or is read while they are replaced."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from amalgam_edge.errors import AmalgamError
from amalgam_edge.scoring.folders import find_stores, merge, verify
from amalgam_edge.scoring.scores import TeacherScores
from amalgam_edge.scoring.scores_manifest import ScoreKey
from amalgam_edge.scoring.store import ScoreStore
from amalgam_edge.storage import staging
from amalgam_edge.storage.staging import recover, staged, write_text_atomically
from tests.support import crash_images
from tests.support.faults import watched

pytestmark = pytest.mark.hostile

TEXT = "content of version {} " * 200


@pytest.fixture
def disk(tmp_path):
    if reason := crash_images.why_not():
        pytest.skip(reason)
    with crash_images.disk(tmp_path) as mounted:
        yield mounted


@pytest.fixture(params=["exchange", "two renames"])
def way(request, monkeypatch):
    """How folders are replaced: as this system does it, or as one that cannot exchange them."""
    if request.param == "two renames":
        monkeypatch.setattr(staging, "exchange", lambda one, other: False)
    return request.param


def write_bundle(folder, version):
    """Some files, and last a manifest with their SHA-256."""
    names = ["onnx/model.onnx", "onnx/model_quantized.onnx", "tokenizer.json", "config.json"]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(TEXT.format(*[version] * 200) + name, "utf-8")
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    (folder / "amalgam.json").write_text(json.dumps({"version": version, "files": digests}), "utf-8")


def replace_bundle(output, version):
    with staged(output) as folder:
        write_bundle(folder, version)


def version_of(folder):
    """The version of a bundle all of whose files are as its manifest says."""
    manifest = json.loads((folder / "amalgam.json").read_bytes())
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, name
    return manifest["version"]


def snapshots_of(disk, run):
    """What the disk holds before each call to the system that a function makes, with the journal just written."""
    taken = []

    def before(name):
        if not before.busy:
            before.busy = True
            disk.commit()
            taken.append(disk.snapshot())
            before.busy = False

    before.busy = False
    with watched(before):
        run()
    return taken


def test_a_bundle_that_was_replaced_is_whole_after_the_power_went(disk, way):
    output = disk.folder / "student"
    for version in (1, 2):
        replace_bundle(output, version)
        disk.commit()
        with disk.after_crash() as found:
            assert version_of(found / "student") == version


def test_without_waiting_for_the_journal_either(disk, way):
    """What was reported as done is on the disk already."""
    output = disk.folder / "student"
    for version in (1, 2):
        replace_bundle(output, version)
        with disk.after_crash() as found:
            assert version_of(found / "student") == version


def test_whenever_the_power_goes_there_is_a_whole_bundle(disk, way):
    output = disk.folder / "student"
    replace_bundle(output, 1)
    seen = []
    for snapshot in snapshots_of(disk, lambda: replace_bundle(output, 2)):
        with disk.after_crash(snapshot) as found:
            recover(found / "student")
            seen.append(version_of(found / "student"))
    assert seen == sorted(seen)  # first the old one, then the new one
    assert set(seen) == {1, 2}
    assert len(seen) > 15


def test_a_file_is_whole_after_the_power_went(disk):
    page = disk.folder / "deep" / "page.html"
    for content in ("first" * 1000, "second" * 1000):
        write_text_atomically(page, content)
        disk.commit()
        with disk.after_crash() as found:
            assert (found / "deep" / "page.html").read_text("utf-8") == content


def key_of(teacher):
    return ScoreKey(teacher, "f" * 64, "c" * 64, 10, {"passes": 4, "seed": 0})


def put(folder, teacher, shards):
    """A teacher's store with some of its three shards; the fifth text has failed."""
    store = ScoreStore(folder / teacher, key_of(teacher), shard_size=4, made_by={"engine": folder.name})
    store.open()
    rng = np.random.default_rng(len(teacher))
    scores = TeacherScores.from_logits(teacher, rng.normal(size=(10, 3)), rng.normal(size=(4, 10, 3)))
    rows = np.setdiff1d(np.arange(10), [4])
    scores = scores.take(rows).scatter(10, rows)
    for shard in shards:
        failures = [{"text": 4, "error": "too deep"}] if 4 in store.rows(shard) else []
        store.write(shard, scores.take(np.array(store.rows(shard))), failures)
    return store


def test_a_shard_that_was_written_is_whole_after_the_power_went(disk):
    for shard in range(3):
        put(disk.folder / "scores", "a", [shard])
        disk.commit()
        with disk.after_crash() as found:
            store = ScoreStore.from_folder(found / "scores" / "a")
            assert store.present() == list(range(shard + 1))
            assert [store.read_shard(one).scores.passes.size for one in store.present()] == [4, 4, 2][: shard + 1]
            assert len(store.failures()) == (shard > 0)


def test_whenever_the_power_goes_no_shard_is_half_written(disk):
    for snapshot in snapshots_of(disk, lambda: put(disk.folder / "scores", "a", range(3))):
        with disk.after_crash(snapshot) as found:
            store = ScoreStore(found / "scores" / "a", key_of("a"), shard_size=4)
            assert store.begun or not store.present()
            store.open()  # a run goes on
            for shard in store.present():
                store.read_shard(shard)


def test_whenever_the_power_goes_a_merge_can_be_called_again(disk, tmp_path):
    put(tmp_path / "one", "a", [0, 1])
    put(tmp_path / "two", "a", [1, 2])
    put(tmp_path / "two", "bb", range(3))
    parts = [tmp_path / "one", tmp_path / "two"]
    snapshots = snapshots_of(disk, lambda: merge(parts, disk.folder / "joined"))
    assert len(snapshots) > 20
    for snapshot in snapshots[::3]:
        with disk.after_crash(snapshot) as found:
            if (found / "joined").is_dir() and any((found / "joined").glob("*/manifest.json")):
                assert verify(found / "joined") == []
            if (found / "joined" / ".merging").exists() or not (found / "joined" / "bb" / "manifest.json").exists():
                stores = merge(parts, found / "joined")
                assert [store.missing() for store in stores] == [[], []]
            assert verify(found / "joined") == []
            assert len(find_stores(found / "joined")) == 2


def test_a_full_disk_leaves_the_old_bundle_and_says_so(disk, tmp_path):
    output = disk.folder / "student"
    replace_bundle(output, 1)
    with pytest.raises(AmalgamError) as refused, staged(output) as folder:
        (folder / "model.onnx").write_bytes(os.urandom(64 << 20))
    assert str(refused.value) == f"{output}: cannot be written (No space left on device)"
    assert version_of(output) == 1
    assert [path.name for path in disk.folder.iterdir()] == ["student"]
    replace_bundle(output, 2)
    assert version_of(output) == 2


def refuse_before_the_block(output, words):
    with pytest.raises(AmalgamError, match=re.escape(words)) as refused, staged(output):
        raise AssertionError("the block was entered")
    assert "\n" not in str(refused.value)


def test_a_mount_point_is_refused_at_the_start(disk):
    refuse_before_the_block(disk.folder, "a mount point cannot be replaced; name a folder in it")


def test_a_folder_of_the_same_file_system_that_is_mounted_is_refused_at_the_start(disk):
    source, output = disk.folder / "source", disk.folder / "student"
    source.mkdir()
    output.mkdir()
    subprocess.run(["mount", "--bind", str(source), str(output)], check=True)
    try:
        refuse_before_the_block(output, "student: a mount point cannot be replaced")
        assert sorted(path.name for path in disk.folder.iterdir()) == ["source", "student"]
    finally:
        subprocess.run(["umount", str(output)], check=True)


def test_a_layer_of_a_container_that_cannot_be_moved_is_refused_at_the_start(disk):
    for name in ("lower/student", "upper", "work", "merged"):
        (disk.folder / name).mkdir(parents=True)
    write_bundle(disk.folder / "lower" / "student", 1)
    layers = ",".join(f"{name}dir={disk.folder / name}" for name in ("lower", "upper", "work"))
    options = f"{layers},redirect_dir=off"
    mounted = disk.folder / "merged"
    tried = subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, str(mounted)], check=False)
    if tried.returncode:
        pytest.skip("there is no overlay file system here")
    try:
        refuse_before_the_block(mounted / "student", "student: cannot be replaced (Invalid cross-device link)")
        assert version_of(mounted / "student") == 1
        replace_bundle(mounted / "another", 2)
        replace_bundle(mounted / "another", 3)
        assert version_of(mounted / "another") == 3
    finally:
        subprocess.run(["umount", str(mounted)], check=True)


def test_a_disk_that_is_read_only_is_told_at_the_start(disk):
    replace_bundle(disk.folder / "student", 1)
    subprocess.run(["mount", "-o", "remount,ro", str(disk.folder)], check=True)
    for output in (disk.folder / "student", disk.folder / "another"):
        refuse_before_the_block(output, "cannot be written")
    with pytest.raises(AmalgamError, match=r"page.html: cannot be written \(Read-only file system\)"):
        write_text_atomically(disk.folder / "page.html", "content")
    assert version_of(disk.folder / "student") == 1


SWAPS = """
import sys
from pathlib import Path
from tests.hostile.test_durability import replace_bundle

for version in range(2, 202):
    replace_bundle(Path(sys.argv[1]), version)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="folders are exchanged in two steps here")
def test_a_reader_finds_a_whole_bundle_during_200_swaps(tmp_path):
    """Every file is there at every moment, and those that were read between two swaps belong together."""
    output = tmp_path / "student"
    replace_bundle(output, 1)
    with subprocess.Popen([sys.executable, "-c", SWAPS, str(output)], cwd=Path(__file__).parents[2]) as writer:
        n_whole, seen = 0, set()
        try:
            while writer.poll() is None:
                first = (output / "amalgam.json").read_bytes()
                manifest = json.loads(first)
                digests = {name: hashlib.sha256((output / name).read_bytes()).hexdigest() for name in manifest["files"]}
                if (output / "amalgam.json").read_bytes() == first:
                    assert digests == manifest["files"]
                    n_whole += 1
                    seen.add(manifest["version"])
        finally:
            writer.terminate()
        assert writer.returncode == 0
    assert n_whole > 0
    assert version_of(output) == 201
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


HOLDS = """
import sys
from pathlib import Path
from amalgam_edge.storage.staging import staged

with staged(Path(sys.argv[1])) as folder:
    (folder / "half").touch()
    print(folder, flush=True)
    sys.stdin.read(1)
"""


def test_a_writer_that_was_killed_holds_nothing_any_more(tmp_path):
    output = tmp_path / "student"
    command = [sys.executable, "-c", HOLDS, str(output)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        try:
            part = Path(first.stdout.readline().strip())
            refused = subprocess.run(command, capture_output=True, text=True, check=False, input="x")
            assert refused.returncode
            last = refused.stderr.splitlines()[-1]
            assert f"{output}: another process writes it (process {first.pid} on " in last
            assert (part / "half").exists()
        finally:
            first.kill()
    assert part.is_dir()
    replace_bundle(output, 1)
    assert version_of(output) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["student"]
