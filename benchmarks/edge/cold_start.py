"""Measure how soon a bundle answers in a new process, and how much memory it takes.

    python -m benchmarks.edge.cold_start runs/student/ [--python PATH]

Each command runs in a new process, and the commands take turns. Printed are medians over the rounds, in seconds and as
ratios to a bare ``import numpy, tokenizers, onnxruntime``, which the edge cannot do without. Peak memory is the
kernel's high-water mark of the process (Linux).
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

TEXT = "a puzzle game about falling blocks"
ANSWER = """
import sys
from amalgam_edge import EdgeClassifier
EdgeClassifier.from_pretrained(sys.argv[1])([sys.argv[2]])
"""
STATUS = "print(open('/proc/self/status').read())"


def seconds(command: list[str]) -> float:
    """Wall-clock seconds of one process, started outside this repository so that the installed package is measured."""
    start = perf_counter()
    subprocess.run(command, check=True, capture_output=True, cwd=tempfile.gettempdir())
    return perf_counter() - start


def peak_megabytes(python: str, bundle: str) -> float:
    """Peak resident memory, in MB, of a process that answers one text."""
    status = subprocess.run(
        [python, "-c", ANSWER + STATUS, bundle, TEXT],
        check=True,
        capture_output=True,
        text=True,
        cwd=tempfile.gettempdir(),
    ).stdout
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1e3


def main() -> None:
    """Measure the commands and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--python", default=sys.executable, help="interpreter of the environment to measure")
    parser.add_argument("--rounds", type=int, default=11)
    arguments = parser.parse_args()
    python, bundle = (str(Path(path).absolute()) for path in (arguments.python, arguments.bundle))

    commands = {
        "bare imports": [python, "-c", "import numpy, tokenizers, onnxruntime"],
        "amalgam-edge --help": [python, "-m", "amalgam_edge.cli", "--help"],
        "first answer, EdgeClassifier": [python, "-c", ANSWER, bundle, TEXT],
        "first answer, amalgam-edge predict": [python, "-m", "amalgam_edge.cli", "predict", bundle, TEXT],
    }
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(arguments.rounds):
        for name, command in commands.items():
            taken[name].append(seconds(command))
    bare = statistics.median(taken["bare imports"])
    print(f"{'process':<36}{'median s':>9}{'ratio':>7}")
    for name, values in taken.items():
        print(f"{name:<36}{statistics.median(values):>9.3f}{statistics.median(values) / bare:>7.2f}")
    if Path("/proc/self/status").exists():
        print(f"peak memory of EdgeClassifier: {peak_megabytes(python, bundle):.0f} MB")


if __name__ == "__main__":
    main()
