"""Compare the Ray engine with the local one: its cost, the gain of a second worker, and a plan for more texts.

    python -m benchmarks.scoring.ray_engine runs/teacher-a --corpus runs/unlabeled.jsonl --output runs/scale \
        --write docs/scale.md

The corpus has as many texts as asked for; each is made by joining two of the given texts, and no pair is used twice.
All commands score it with one teacher and few passes. That is the least favourable case, because the cost of an engine
weighs most where there is least to compute. A worker has one core. A command that has been run is not run again; delete
the output folder to begin anew.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from amalgam_edge.corpus import read_corpus
from amalgam_edge.environment import cpu_features
from amalgam_edge.reports.tables import Column, Table
from benchmarks.common.documents import write_between_marks
from benchmarks.common.process_memory import resident_bytes

SIZES = (10**6, 10**8, 10**9)
PLAN_PASSES = 10
ENGINES = {
    "local": ["--engine", "local"],
    "Ray, 1 worker": ["--engine", "ray", "--workers", "1", "--threads", "1"],
    "Ray, {cores} workers": ["--engine", "ray", "--workers", "{cores}", "--threads", "1"],
}


def joined(texts: Sequence[str], n: int) -> Iterator[str]:
    """``n`` texts, each made by joining two of the given ones; no pair is used twice."""
    pairs = (
        f"{first} {texts[(place + step) % len(texts)]}"
        for step in range(1, len(texts))
        for place, first in enumerate(texts)
    )
    return islice(pairs, n)


def score(name: str, options: argparse.Namespace, corpus: Path) -> dict[str, Any]:
    """Run one command, or read its earlier result: its seconds, and the memory of each worker over time."""
    words = [word.format(cores=options.cores) for word in ENGINES[name]]
    output = options.output / name.format(cores=options.cores).replace(" ", "-").replace(",", "")
    result = output.with_suffix(".json")
    if result.exists():
        return json.loads(result.read_text("utf-8"))
    say(f"{name.format(cores=options.cores)} …")
    command = [sys.executable, "-m", "amalgam_edge.cli", "score", "--teacher", f"teacher={options.teacher}"]
    command += ["--corpus", str(corpus), "--output", str(output), "--passes", str(options.passes), "--device", "cpu"]
    began = time.time()
    running = subprocess.Popen([*command, *words], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    memory: dict[int, list[int]] = {}
    while running.poll() is None:
        for pid in ray_worker_pids() if "Ray" in name else [running.pid]:
            memory.setdefault(pid, []).append(resident_bytes(pid))
        time.sleep(1)
    if running.returncode:
        raise SystemExit(f"{name} ended with status {running.returncode}")
    seconds = time.time() - began
    shards = sorted((output / "teacher").glob("shard-*.parquet"), key=lambda path: path.stat().st_mtime)
    first, last = (shard.stat().st_mtime for shard in (shards[0], shards[-1]))
    found = {
        "seconds": seconds,
        "steady": options.texts * (1 - 1 / len(shards)) / (last - first),
        "bytes": sum(shard.stat().st_size for shard in shards),
        "memory": {pid: samples for pid, samples in memory.items() if len(samples) > 10 and max(samples)},
    }
    result.write_text(json.dumps(found), "utf-8")
    return found


def ray_worker_pids() -> list[int]:
    """The ids of Ray's processes that score (Linux)."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"ShardWorker" in (process / "cmdline").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue
    return found


def growth(samples: Sequence[int]) -> float:
    """Growth of the peak from the second third of the samples to the last; the first third is start-up."""
    third = len(samples) // 3
    return max(samples[2 * third :]) / max(samples[third : 2 * third]) - 1


def engines_table(found: dict[str, dict[str, Any]], n_texts: int) -> Table:
    """Seconds, rates and memory of each engine."""
    local = found["local"]
    one = found["Ray, 1 worker"]
    rows = []
    for name, result in found.items():
        memories = [max(samples) for samples in result["memory"].values()]
        rows.append(
            [
                name,
                f"{result['seconds']:.0f}",
                f"{result['seconds'] / local['seconds']:.2f}",
                f"{result['steady']:.1f}",
                f"{result['steady'] / one['steady']:.2f}",
                f"{max(memories) / 1e6:.0f}",
                f"{max(map(growth, result['memory'].values())):+.1%}",
            ]
        )
    titles = ("seconds in all", "of local", "texts/s once running", "of one worker", "MB a process", "its growth")
    return Table((Column(f"{n_texts} texts", numeric=False), *map(Column, titles)), tuple(rows))


def plan_table(rate: float, bytes_a_text: float, text_bytes: float, passes: int, price: float) -> Table:
    """Cores needed to score within a day, their cost, and bytes stored and moved, from the rate of one worker."""
    core_seconds = (PLAN_PASSES + 1) / (passes + 1) / rate
    rows = []
    for n in SIZES:
        hours = n * core_seconds / 3600
        cores = math.ceil(hours / 24)
        rows.append(
            [
                f"{n:.0e}".replace("e+0", "e"),
                f"{hours:,.0f}",
                f"{cores:,}",
                f"{hours / cores:.0f}",
                f"{hours * price:,.0f}",
                f"{n * bytes_a_text / 1e9:,.2f}",
                f"{n * text_bytes / 1e9:,.2f}",
            ]
        )
    titles = (
        "core hours a teacher",
        "cores for a day",
        "hours",
        f"$ at {price:g} a core hour",
        "GB stored a teacher",
        "GB of texts moved",
    )
    return Table((Column("texts", numeric=False), *map(Column, titles)), tuple(rows))


def say(line: str) -> None:
    """Print progress on standard error."""
    print(line, file=sys.stderr, flush=True)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", help="folder of a fine-tuned classifier")
    parser.add_argument("--corpus", required=True, help="texts that the corpus is made from")
    parser.add_argument("--texts", type=int, default=16_384)
    parser.add_argument("--passes", type=int, default=2)
    parser.add_argument("--cores", type=int, default=2, help="workers of the second Ray run")
    parser.add_argument(
        "--price",
        type=float,
        default=0.04,
        help="price of a core hour in dollars; the default is usual for a rented core",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for corpus and scores")
    parser.add_argument("--write", type=Path, help="a Markdown file to write the tables into, between its marks")
    return parser.parse_args()


def main() -> None:
    """Measure, and write the tables where asked."""
    options = parse()
    options.output.mkdir(parents=True, exist_ok=True)
    corpus = options.output / "texts.jsonl"
    texts = list(joined(list(read_corpus(options.corpus).texts), options.texts))
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), "utf-8")
    found = {name.format(cores=options.cores): score(name, options, corpus) for name in ENGINES}
    one = found["Ray, 1 worker"]
    text = "\n\n".join(
        [
            f"{platform.system()} on {platform.machine()} ({', '.join(cpu_features())}), {options.cores} cores, one "
            f"teacher, {options.passes} passes, texts of {sum(map(len, texts)) / len(texts):.0f} characters.",
            engines_table(found, options.texts).to_markdown(),
            f"From the rate of one worker, {PLAN_PASSES} passes:",
            plan_table(
                one["steady"],
                one["bytes"] / options.texts,
                sum(len(text.encode()) for text in texts) / len(texts),
                options.passes,
                options.price,
            ).to_markdown(),
        ]
    )
    print(text)
    if options.write:
        write_between_marks(options.write, "benchmarks.scoring.ray_engine", text)


if __name__ == "__main__":
    main()
