"""Tables in documents, between marks that tell which script made them."""

from __future__ import annotations

from pathlib import Path

_END = "<!-- end -->"


def write_between_marks(path: Path, script: str, text: str) -> None:
    """Put what a script of benchmarks/ has measured where it stood before; a document without its mark gets it last."""
    begin = f"<!-- made by benchmarks/{script} -->"
    before, _, rest = path.read_text("utf-8").partition(begin)
    path.write_text(f"{before}{begin}\n\n{text}\n\n{_END}{rest.partition(_END)[2]}", "utf-8")
