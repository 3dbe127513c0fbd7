"""What a disk refuses, in one line, whoever was told by it first."""

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from amalgam_edge.errors import AmalgamError
from amalgam_edge.storage.owned_names import new_name
from amalgam_edge.storage.write_errors import explain_write_error, report_write_errors

FULL = "No space left on device"


def error_of(code, *names):
    return OSError(code, os.strerror(code), *names)


def wrapped(error, cause):
    error.__cause__ = cause
    return error


def over(error, context):
    error.__context__ = context
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (error_of(errno.ENOSPC, "a/model.onnx"), f"a/model.onnx: cannot be written ({FULL})"),
        (error_of(errno.ENOSPC), f"student: cannot be written ({FULL})"),
        (error_of(errno.EDQUOT), f"student: cannot be written ({os.strerror(errno.EDQUOT)})"),
        (error_of(errno.EROFS, "x"), "x: cannot be written (Read-only file system)"),
        (error_of(errno.EFBIG, "x"), "x: cannot be written (File too large)"),
        (error_of(errno.EIO, "x"), "x: cannot be read or written (Input/output error)"),
        (error_of(errno.EACCES, "x"), "x: cannot be read or written (Permission denied)"),
        (error_of(errno.EIO, "/d/.s.amalgam-edge-01234567-89abcdef.part/m"), "student: cannot be written (Input"),
        (error_of(errno.ENOENT, "/d/.s.amalgam-edge-01234567-89abcdef.part/m"), "student: cannot be written (No such"),
        (Exception(f"{FULL} (os error 28)"), f"student: cannot be written ({FULL})"),  # as tokenizers say it
        (FileNotFoundError(2, "No usable temporary directory found in []"), "student: cannot be written (the disk"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64"), "student: cannot be written"),
        (wrapped(ValueError("cannot save"), error_of(errno.ENOSPC)), f"student: cannot be written ({FULL})"),
        (over(ValueError("cannot close"), error_of(errno.ENOSPC)), f"student: cannot be written ({FULL})"),
    ],
)  # fmt: skip
def test_what_a_disk_refuses_is_one_line(error, said):
    with pytest.raises(AmalgamError) as told, report_write_errors("student"):
        raise error
    assert str(told.value).startswith(said)
    assert "\n" not in str(told.value)
    assert told.value.__cause__ is error


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a mistake of ours"), RuntimeError("shapes differ"), error_of(errno.ENOENT, "gone"),
        error_of(errno.ECONNREFUSED), KeyError("x"), error_of(errno.EPIPE),
        over(TypeError("a mistake of ours"), error_of(errno.EACCES, "x")),
    ],
)  # fmt: skip
def test_other_errors_pass_as_they_are(error):
    assert explain_write_error(error, "student") is None
    with pytest.raises(type(error)) as passed, report_write_errors("student"):
        raise error
    assert passed.value is error


def test_what_was_told_already_is_not_told_again():
    with pytest.raises(AmalgamError, match=r"^as it was$"), report_write_errors("student"):
        raise AmalgamError("as it was") from error_of(errno.ENOSPC)


@pytest.mark.parametrize(
    ("devices", "free", "named"),
    [((1, 2), (5, 3), "temporary files"), ((1, 2), (3, 5), "output"), ((1, 1), (5, 3), "output")],
)
def test_an_error_without_a_name_is_of_the_fuller_disk(monkeypatch, tmp_path, devices, free, named):
    """Libraries use the folder of temporary files, which may be another disk."""
    folders = [tmp_path, tmp_path / "temporary"]
    folders[1].mkdir()
    real = Path.stat

    def stat(path, **options):
        return SimpleNamespace(st_dev=devices[folders.index(path)]) if path in folders else real(path, **options)

    monkeypatch.setattr(tempfile, "tempdir", str(folders[1]))
    monkeypatch.setattr(Path, "exists", lambda path: path in folders)
    monkeypatch.setattr(Path, "stat", stat)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free[folders.index(path)]))
    said = explain_write_error(error_of(errno.ENOSPC), tmp_path / "output")
    assert said.startswith(f"{tmp_path / 'output' if named == 'output' else named}: cannot be written (")


def test_causes_in_a_circle_end():
    error = wrapped(ValueError("a"), None)
    error.__cause__ = over(ValueError("b"), error)
    assert explain_write_error(error) is None


LIBRARIES = {
    "torch": "torch.save(torch.zeros(50_000), path)",
    "safetensors": "safetensors.torch.save_file({'a': torch.zeros(50_000)}, path)",
    "tokenizers": "tokenizers.Tokenizer(tokenizers.models.WordLevel({str(n): n for n in range(9999)}, '0')).save(path)",
    "numpy": "numpy.save(path, numpy.zeros(50_000))",
    "onnx": "onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], 'g', [], [], [onnx.numpy_helper.from_array("
    "numpy.zeros(50_000), 'a')])), path)",
    "pyarrow": "pyarrow.parquet.write_table(pyarrow.table({'a': numpy.random.random(50_000)}), path)",
    "datasets": "datasets.Dataset.from_dict({'a': ['x' * 99] * 9999}).save_to_disk(path)",
}
FULL_DISK = """
import resource, sys, numpy, torch, tokenizers, safetensors.torch, onnx, pyarrow.parquet, datasets
import onnx.numpy_helper
from amalgam_edge.storage.write_errors import explain_write_error

for name, code in {libraries!r}.items():
    path = sys.argv[1] + "/" + name
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    try:
        exec(code)
    except Exception as error:
        caught = error
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(name, explain_write_error(caught, "student") or repr(caught), sep="|")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no resource limits")
def test_what_libraries_make_of_a_full_disk_is_understood(tmp_path):
    code = FULL_DISK.format(libraries=LIBRARIES)
    finished = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    said = dict(line.split("|", 1) for line in finished.stdout.splitlines())
    assert set(said) == set(LIBRARIES)
    assert [line for line in said.values() if ": cannot be written (" not in line] == []


def test_a_folder_that_is_still_written_is_called_by_the_name_that_it_will_have(tmp_path):
    part = new_name(tmp_path / "student")
    error = error_of(errno.ENOSPC, str(part / "onnx" / "model.onnx"))
    assert explain_write_error(error, "student") == f"student: cannot be written ({FULL})"
