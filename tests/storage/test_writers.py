"""Every output reaches the disk through ``storage``: found in the syntax of the whole package."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PACKAGES = ("amalgam_edge", "cli", "exporters", "models")

METHODS = {
    "write_text", "write_bytes", "touch", "save_pretrained", "save_to_disk", "savefig", "tofile", "get_file",
    "symlink_to", "hardlink_to", "to_csv", "to_parquet", "savez", "savetxt", "save_model", "save_file", "write_table",
    "copyfile", "copyfileobj", "copytree", "copy2", "rename", "extractall", "save_tokenizer", "ftruncate",
}  # fmt: skip
FUNCTIONS = {"np.save", "onnx.save", "torch.save", "pickle.dump", "json.dump", "os.replace", "os.write", "shutil.copy",
             "shutil.move", "os.link", "yaml.dump", "csv.writer"}  # fmt: skip

STORAGE = "what all others call"
STAGED = "in a folder that is synced as a whole before it takes its place"
SCRATCH = "gone when the run ends; a run that was cut off writes it again"
MEMORY = "writes to memory"

# Function → why it may write by itself. All else goes through staged, staged_file, write_atomically or files.write.
ALLOWED = {
    "amalgam_edge/storage/staging.py:_end_what_was_cut_off": STORAGE,
    "amalgam_edge/storage/staging.py:_put_in_place": STORAGE,
    "amalgam_edge/storage/staging.py:_rename_in_two_steps": STORAGE,
    "amalgam_edge/storage/staging.py:staged_file": STORAGE,
    "amalgam_edge/storage/staging.py:write_atomically": STORAGE,
    "amalgam_edge/storage/output_lock.py:_acquire": "a lock, which nobody needs after the power went",
    "amalgam_edge/storage/output_lock.py:_sign": "a lock, which nobody needs after the power went",
    "amalgam_edge/storage/replaceable.py:require_movable": "moves nothing",
    "amalgam_edge/storage/exchange.py:_rename_call": STORAGE,
    "amalgam_edge/storage/exchange.py:exchange": STORAGE,
    "amalgam_edge/browser/site.py:_write_model": STAGED,
    "amalgam_edge/browser/site.py:export_site": STAGED,
    "amalgam_edge/building/bundling.py:write_bundle": STAGED,
    "amalgam_edge/building/changing_heads.py:_change_cascade": STAGED,
    "amalgam_edge/building/changing_heads.py:_copy_rest": STAGED,
    "amalgam_edge/building/changing_heads.py:_write_bundle": STAGED,
    "amalgam_edge/building/changing_heads.py:_write_models": STAGED,
    "amalgam_edge/building/choosing.py:_export": STAGED,
    "amalgam_edge/building/choosing.py:choose_student": STAGED,
    "amalgam_edge/building/optimizing.py:_write_bundle": STAGED,
    "amalgam_edge/building/teacher_folder.py:write_teacher": STAGED,
    "amalgam_edge/runtime/manifest.py:write_manifest": STAGED,
    "amalgam_edge/runtime/publishing.py:_rewrite_card": STAGED,
    "amalgam_edge/runtime/publishing.py:copy_files": STAGED,
    "exporters/quantization/int8.py:quantize_to_int8": STAGED,
    "exporters/quantization/weight_only.py:_write_in_blocks": STAGED,
    "exporters/quantization/weight_only.py:write_fp16": STAGED,
    "exporters/tracing/to_onnx.py:save_onnx": STAGED,
    "exporters/selection/calibration.py:observe_activations": SCRATCH,
    "amalgam_edge/corpus/local_copies.py:_unpack": "into a staged file",
    "amalgam_edge/corpus/local_copies.py:fetched_copy": "into a staged file",
    "amalgam_edge/building/processes.py:_run": SCRATCH,
    "amalgam_edge/building/training_job.py:_write_texts": SCRATCH,
    "amalgam_edge/building/training_job.py:run_job": SCRATCH,
    "amalgam_edge/building/training_job.py:write_job": SCRATCH,
    "amalgam_edge/evaluation/peers.py:_run_ctranslate2": SCRATCH,
    "amalgam_edge/evaluation/peers.py:trained_student": SCRATCH,
    "amalgam_edge/reports/plots.py:_svg": MEMORY,
    "amalgam_edge/scoring/hidden_states.py:write": MEMORY,
    "amalgam_edge/scoring/ray/pending.py:write_pending": MEMORY,
    "amalgam_edge/scoring/store.py:write": MEMORY,
    "cli/process_border.py:_drop_unwritten_output": "to nowhere",
    "cli/prediction_output.py:_row": MEMORY,
    "cli/prediction_output.py:opened_output": "into a staged file, or a pipe",
}


def functions(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """The name of each function, and what stands outside of them as ``""``, with each call in it."""

    def walk(node: ast.AST, name: str) -> Iterator[tuple[str, ast.AST]]:
        for child in ast.iter_child_nodes(node):
            inside = child.name if isinstance(child, ast.FunctionDef) and not name else name
            yield inside, child
            yield from walk(child, inside)

    return walk(tree, "")


def opens_to_write(call: ast.Call) -> bool:
    """Whether a call of ``open`` may write: its mode says so, or is not known."""
    positional = call.args[1:2] if isinstance(call.func, ast.Name) else call.args[:2]
    arguments = [*positional, *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
    modes = [part.value for part in arguments if isinstance(part, ast.Constant) and isinstance(part.value, str)]
    return any(len(mode) <= 4 and set(mode) <= set("rwaxbt+") and set(mode) & set("wax+") for mode in modes)


def writes(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    name = ast.unparse(node.func)
    last = name.rpartition(".")[2]
    if name == "os.open":
        return any(flag in ast.unparse(node) for flag in ("O_CREAT", "O_WRONLY", "O_TRUNC"))
    if last == "open":
        return opens_to_write(node)
    return name in FUNCTIONS or last in METHODS


def writers() -> set[str]:
    return {
        f"{file.relative_to(REPOSITORY).as_posix()}:{function}"
        for package in PACKAGES
        for file in (REPOSITORY / package).rglob("*.py")
        for function, node in functions(ast.parse(file.read_text("utf-8")))
        if writes(node)
    }


def test_nothing_else_writes():
    assert writers() - set(ALLOWED) == set(), "write through amalgam_edge.storage, or say here why not"


def test_what_may_write_by_itself_is_still_there():
    assert set(ALLOWED) - writers() == set()


@pytest.mark.parametrize(
    "code",
    [
        "Path('a').write_text('x')", "open('a', 'w')", "open('a', mode='ab')", "path.open('x')", "np.save(path, array)",
        "os.replace(a, b)", "os.open(path, os.O_CREAT)", "model.save_pretrained(folder)", "shutil.copyfile(a, b)",
    ],
)  # fmt: skip
def test_a_writer_is_found(code):
    tree = ast.parse(f"def function():\n    {code}")
    assert [name for name, node in functions(tree) if writes(node)] == ["function"]


@pytest.mark.parametrize("code", ["open('a')", "path.open('rb')", "text.replace('w', 'a')", "os.open(a, os.O_RDONLY)"])
def test_a_reader_is_none(code):
    assert not any(writes(node) for node in ast.walk(ast.parse(code)))
