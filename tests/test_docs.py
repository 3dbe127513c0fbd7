"""Documents that are made from the code are up to date."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def test_the_map_of_the_packages_is_up_to_date():
    finished = subprocess.run(
        [sys.executable, DOCS / "make_map.py", "--check"], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
