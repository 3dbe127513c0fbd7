"""What is shipped: the sdist holds the whole repository and can run its own tests, the wheel only the package."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
TOP_FOLDERS = ("cli", "exporters", "models")  # installed as amalgam_edge.cli and so on
# Tests that are fast and read from all over the repository: code, examples and benchmarks.
FAST_TESTS = ("tests/metrics/test_accuracy.py", "tests/test_labels.py", "tests/benchmarks/test_corpora.py")


def build(what: str, source: Path, output: Path) -> tuple[Path, str]:
    """Call the build backend; the file that it has made, and what it printed."""
    code = f"import setuptools.build_meta as b, sys; open(sys.argv[2], 'w').write(b.build_{what}(sys.argv[1]))"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    ran = subprocess.run(
        [sys.executable, "-c", code, output, output / f"{what}.txt"],
        cwd=source,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return output / (output / f"{what}.txt").read_text("utf-8"), ran.stdout + ran.stderr


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    """The repository's files."""
    if not (REPOSITORY / ".git").exists():
        pytest.skip("not a checkout, so there is no list of the repository's files")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return sorted(name for name in listed.stdout.split("\0") if name and (REPOSITORY / name).exists())


@pytest.fixture(scope="module")
def sdist(tracked, tmp_path_factory) -> tuple[Path, str]:
    """The unpacked sdist of a clean copy of the repository, and what was printed when it was built."""
    folder = tmp_path_factory.mktemp("sdist")
    for name in tracked:
        (folder / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, folder / "copy" / name)
    archive, printed = build("sdist", folder / "copy", folder)
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz"), printed


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory) -> tuple[Path, str]:
    """The wheel that is built from the sdist, and what was printed when it was built."""
    return build("wheel", sdist[0], tmp_path_factory.mktemp("wheel"))


def test_the_sdist_holds_the_whole_repository(sdist, tracked):
    made_by_setuptools = {"PKG-INFO", "setup.cfg"}
    found = {path.relative_to(sdist[0]).as_posix() for path in sdist[0].rglob("*") if path.is_file()}
    found = {name for name in found - made_by_setuptools if ".egg-info/" not in name}
    assert found == {*tracked}


def test_the_wheel_holds_the_package_and_nothing_else(wheel, tracked):
    with zipfile.ZipFile(wheel[0]) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {name for name in tracked if name.startswith("amalgam_edge/")}
    expected |= {f"amalgam_edge/{name}" for name in tracked if name.startswith(tuple(f"{top}/" for top in TOP_FOLDERS))}
    assert found == expected
    assert "amalgam_edge/py.typed" in found
    assert "amalgam_edge/browser/page/index.html" in found


def test_building_warns_of_nothing(sdist, wheel):
    for _, printed in (sdist, wheel):
        assert [line for line in printed.splitlines() if "warn" in line.lower() or "deprecat" in line.lower()] == []


def test_the_sdist_runs_its_own_tests(sdist):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *FAST_TESTS]
    ran = subprocess.run(command, cwd=sdist[0], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
