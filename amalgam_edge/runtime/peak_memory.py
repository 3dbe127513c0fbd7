"""Peak memory of a process that answers with a model. Run as a module, it is that process and prints its own peak."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from amalgam_edge.runtime.text_model import TextModel
from amalgam_edge.storage.own_files import FileContent

_TEXT = "a text of a few words"
_REPETITIONS = (1, 4, 8)  # so that texts of several lengths are answered


def peak_megabytes(model: Path, tokenizer: Path, *, max_length: int, pad_token_id: int) -> float | None:
    """Peak memory, in 10⁶ bytes, of a fresh process that loads the model and answers a few texts.

    None if the operating system does not report it, or the process fails.

    Args:
        model: Path of the ONNX model.
        tokenizer: Path of its tokenizer.json.
        max_length: Tokens to which texts are cut.
        pad_token_id: Token id that fills batches.
    """
    arguments = [str(model), str(tokenizer), str(max_length), str(pad_token_id)]
    command = [sys.executable, "-m", "amalgam_edge.runtime.peak_memory", *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  (our own module)
    try:
        return float(finished.stdout) if finished.returncode == 0 else None
    except ValueError:
        return None


def peak_megabytes_of_this_process() -> float | None:
    """Peak memory of this process so far, in 10⁶ bytes; None if the operating system does not report it."""
    status = Path("/proc/self/status")
    if status.is_file():  # on Linux, getrusage would include the parent's memory from before exec
        peak = next((line for line in status.read_text().splitlines() if line.startswith("VmHWM:")), None)
        return int(peak.split()[1]) * 1024 / 1e6 if peak else None
    try:
        import resource
    except ImportError:  # Windows
        return None
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)


def main(model: str, tokenizer: str, max_length: str, pad_token_id: str) -> None:
    """Answer one text at a time, and print this process' peak memory."""
    text_model = TextModel(
        FileContent.read(Path(model)),
        FileContent.read(Path(tokenizer)),
        max_length=int(max_length),
        pad_token_id=int(pad_token_id),
    )
    for n in _REPETITIONS:
        text_model.run([" ".join([_TEXT] * n)])
    peak = peak_megabytes_of_this_process()
    print("" if peak is None else peak)  # noqa: T201  (read by peak_megabytes)


if __name__ == "__main__":
    main(*sys.argv[1:])
