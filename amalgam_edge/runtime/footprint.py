"""How much memory a process takes that answers with a model: run as one, it says so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from amalgam_edge.runtime.text_model import TextModel

_TEXT = "a text of a few words"


def peak_megabytes(model: Path, tokenizer: Path, *, max_length: int, pad_token_id: int) -> float | None:
    """The most memory, in 10⁶ bytes, of a process of its own that loads the model and answers a few texts.

    None where the system does not tell, or the process fails.
    """
    arguments = [str(model), str(tokenizer), str(max_length), str(pad_token_id)]
    command = [sys.executable, "-m", "amalgam_edge.runtime.footprint", *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  (our own module)
    try:
        return float(finished.stdout) if finished.returncode == 0 else None
    except ValueError:
        return None


def own_peak() -> float | None:
    """The most memory that this process has taken, in 10⁶ bytes; None where the system does not tell."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would count what the parent took before it became this process
        peak = next((line for line in status.read_text().splitlines() if line.startswith("VmHWM:")), None)
        return int(peak.split()[1]) * 1024 / 1e6 if peak else None
    try:
        import resource
    except ImportError:
        return None
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)


def main(model: str, tokenizer: str, max_length: str, pad_token_id: str) -> None:
    """Answer one text at a time, and print the peak."""
    text_model = TextModel(Path(model), Path(tokenizer), max_length=int(max_length), pad_token_id=int(pad_token_id))
    for length in (1, 4, 8):
        text_model.run([" ".join([_TEXT] * length)])
    peak = own_peak()
    print("" if peak is None else peak)  # noqa: T201  (its answer)


if __name__ == "__main__":
    main(*sys.argv[1:])
