"""Writing tables into documents, between marks that name the command that made them."""

from __future__ import annotations

from pathlib import Path

_END = "<!-- end -->"


def write_between_marks(path: Path, module: str, text: str) -> None:
    """Replace what a benchmark wrote into a document before; a document without its mark gets the text at its end.

    Args:
        path: The Markdown document.
        module: The benchmark's module, as in ``benchmarks.edge.run``.
        text: Markdown to put between the marks.
    """
    begin = f"<!-- made by {module} -->"
    before, _, rest = path.read_text("utf-8").partition(begin)
    path.write_text(f"{before}{begin}\n\n{text}\n\n{_END}{rest.partition(_END)[2]}", "utf-8")
