"""CLINC150 (Larson et al., EMNLP 2019) as texts with two gold columns: the domain and the intent within it.

The file is not part of this repository. ``clinc150.csv`` has the columns text, label, domain and split; texts out of
scope have no domain.
"""

from __future__ import annotations

import csv
from pathlib import Path

from benchmarks.common.errors import UnavailableError

FILE = "clinc150.csv"


def read(folder: Path | None) -> list[dict[str, str]]:
    """Rows with the columns text, domain and intent; those out of scope are left out.

    Raises:
        UnavailableError: There is no such folder, or it does not hold the file.
    """
    if folder is None or not (folder / FILE).exists():
        raise UnavailableError(f"CLINC150 is read from a file {FILE} with the columns text, label, domain; give --data")
    with (folder / FILE).open(encoding="utf-8", newline="") as file:
        return [
            {"text": row["text"], "domain": row["domain"], "intent": row["label"]}
            for row in csv.DictReader(file)
            if row["domain"]
        ]
