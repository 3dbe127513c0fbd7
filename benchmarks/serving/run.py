"""Measure a bundle behind HTTP: its throughput against the library and two other servers, and its behaviour under load.

    amalgam-edge build --recipe runs/student/recipe.yaml --include-torch --output runs/student-3
    python -m benchmarks.serving.run runs/student-3 --corpus runs/unlabeled.jsonl --soak 600 --write docs/serving.md
    python -m benchmarks.serving.run runs/student-3 --corpus runs/unlabeled.jsonl --quick   # about 3 minutes

Load comes from another process on loopback (benchmarks.serving.load), which takes its share of the same cores. Servers
take turns, each in new processes that are started for its turn, and figures are medians over rounds. One of them needs
litserve, and is left out if that is not installed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from urllib.error import URLError
from urllib.request import Request, urlopen

import numpy as np

from amalgam_edge.corpus import read_corpus
from amalgam_edge.environment import cpu_features
from amalgam_edge.reports.tables import Column, Table
from amalgam_edge.runtime import EdgeClassifier
from benchmarks.common.documents import write_between_marks
from benchmarks.common.process_memory import resident_bytes

LIBRARY, IN_CALLS, OURS = "the library, in one call", "the library, 32 texts a call", "amalgam-edge serve"
PEERS = {"fastapi": "FastAPI and a transformers pipeline", "litserve": "LitServe and a transformers pipeline"}
CLIENTS = 32
MANY = 32  # texts in a request that has several
SPARSE = 20  # requests per second at which two hardly ever overlap
PORT = 18_080
DEADLINE = 5.0  # seconds that a request may take


def server_command(contender: str, bundle: str, threads: int, port: int) -> list[str]:
    """The command that starts a server."""
    if contender == OURS:
        server = ["-m", "amalgam_edge.cli", "serve", bundle, "--deadline", str(DEADLINE)]
    else:
        server = ["-m", f"benchmarks.serving.peer_{contender}", bundle]
    return [sys.executable, *server, "--port", str(port), "--threads", str(threads)]


@contextmanager
def served(contender: str, bundle: str, threads: int) -> Iterator[tuple[str, int]]:
    """Run a server within the block: its address and process id, once it answers."""
    url = f"http://127.0.0.1:{PORT}/predict"
    until = time.monotonic() + 10
    while answers(PORT):  # the last server may still be ending
        if time.monotonic() > until:
            raise SystemExit(f"something answers on port {PORT} already")
        time.sleep(0.1)
    process = subprocess.Popen(
        server_command(contender, bundle, threads, PORT), stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        for _ in range(600):
            try:
                ask(url, "warm up")
                break
            except (URLError, OSError):
                if process.poll() is not None:
                    raise SystemExit(f"{contender} did not start") from None
                time.sleep(0.1)
        yield url, process.pid
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        with suppress(ProcessLookupError):  # processes that LitServe has started outlive it
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(port: int) -> bool:
    """Whether a process listens on a port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def ask(url: str, text: str) -> float:
    """Seconds that one request takes on a new connection."""
    request = Request(url, json.dumps({"inputs": text}).encode(), {"content-type": "application/json"})
    began = time.monotonic()
    with urlopen(request, timeout=30) as answer:
        answer.read()
    return time.monotonic() - began


class Load:
    """Request bodies in files, and the processes that send them.

    Args:
        texts: Texts of the requests.
        folder: Where the files are written.
    """

    def __init__(self, texts: Sequence[str], folder: Path) -> None:
        self._files = {}
        for size in (1, MANY):
            requests = [texts[first : first + size] for first in range(0, len(texts) - size + 1, size)]
            bodies = [json.dumps({"inputs": inputs[0] if size == 1 else inputs}) for inputs in requests]
            self._files[size] = folder / f"{size}.json"
            self._files[size].write_text(json.dumps(bodies))

    def start(self, kind: str, url: str, size: int, **options: float) -> subprocess.Popen[str]:
        """Start a process that sends requests; :meth:`read` waits for its result."""
        named = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        command = [sys.executable, "-m", "benchmarks.serving.load", kind, url, str(self._files[size]), *named]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def read(self, process: subprocess.Popen[str]) -> dict[int, np.ndarray]:
        """Latencies in seconds, by status."""
        output, _ = process.communicate()
        return {int(status): np.array(latencies) for status, latencies in json.loads(output).items()}

    def run(self, kind: str, url: str, size: int, **options: float) -> dict[int, np.ndarray]:
        """Send requests and wait for the latencies, by status."""
        return self.read(self.start(kind, url, size, **options))


def throughput(load: Load, url: str, size: int, seconds: float) -> float:
    """Texts per second of several clients that each wait for their answer."""
    load.run("closed", url, size, clients=CLIENTS, seconds=1.0)
    answers = load.run("closed", url, size, clients=CLIENTS, seconds=seconds)
    if {*answers} != {200}:
        raise SystemExit(f"statuses {sorted(answers)} where all should be 200")
    return len(answers[200]) * size / seconds


def library_throughput(bundle: str, texts: Sequence[str], threads: int, size: int) -> float:
    """Texts per second of the library in a new process, in calls of ``size`` texts."""
    code = (
        "import json, sys, time; from amalgam_edge.runtime import EdgeClassifier\n"
        "bundle, calls, threads = json.load(sys.stdin)\n"
        "classifier = EdgeClassifier.from_pretrained(bundle, threads=threads)\n"
        "def answer():\n"
        "    for texts in calls: classifier(texts)\n"
        "answer(); began = time.monotonic(); answer(); answer()\n"
        "print(2 * sum(map(len, calls)) / (time.monotonic() - began))"
    )
    calls = [list(texts[first : first + size]) for first in range(0, len(texts), size)]
    given = json.dumps([bundle, calls, threads])
    ran = subprocess.run([sys.executable, "-c", code], input=given, capture_output=True, text=True, check=True)
    return float(ran.stdout)


def throughputs(bundle: str, texts: Sequence[str], load: Load, options: argparse.Namespace) -> Table:
    """Throughput of the library and of every server; they take turns in each round."""
    contenders = [OURS, *(peer for peer in PEERS if peer == "fastapi" or find_spec("litserve"))]
    found: dict[str, dict[int, list[float]]] = {name: {1: [], MANY: []} for name in (LIBRARY, IN_CALLS, *contenders)}
    for turn in range(options.rounds):
        for name, of_call in ((LIBRARY, len(texts)), (IN_CALLS, MANY)):
            rate = library_throughput(bundle, texts, options.threads, of_call)
            for size in (1, MANY):
                found[name][size].append(rate)
        for contender in contenders:
            with served(contender, bundle, options.threads) as (url, _):
                for size in (1, MANY):
                    found[contender][size].append(throughput(load, url, size, options.seconds))
            alone, many = (found[contender][size][-1] for size in (1, MANY))
            say(f"round {turn + 1}, {contender}: {alone:.0f} and {many:.0f} texts/s")
    rows = []
    for name, rates in found.items():
        medians = {size: median(values) for size, values in rates.items()}
        shares = [median(a / b for a, b in zip(rates[size], found[LIBRARY][size], strict=True)) for size in (1, MANY)]
        rows.append(
            [PEERS.get(name, name), f"{medians[1]:.0f}", f"{shares[0]:.0%}", f"{medians[MANY]:.0f}", f"{shares[1]:.0%}"]
        )
    titles = ("a text a request", "of the library", f"{MANY} texts a request", "of the library")
    return Table((Column("texts a second", numeric=False), *map(Column, titles)), tuple(rows))


def latencies(load: Load, url: str, options: argparse.Namespace) -> str:
    """Latencies of a single client, of sparse requests, and at half of the throughput of 32 clients."""
    rounds: list[tuple[float, ...]] = []
    n_other = 0
    for _ in range(options.rounds):
        alone = load.run("closed", url, 1, clients=1, seconds=options.seconds)[200]
        sparse = load.run("open", url, 1, rate=SPARSE, seconds=options.seconds)[200]
        rate = throughput(load, url, 1, options.seconds) / 2
        half = load.run("open", url, 1, rate=rate, seconds=2 * options.seconds)
        n_other += sum(len(values) for status, values in half.items() if status != 200)
        quantiles = [
            1000 * np.quantile(values, share) for values in (alone, sparse, half[200]) for share in (0.5, 0.99)
        ]
        rounds.append((*quantiles, rate, quantiles[5] / quantiles[0], quantiles[5] / quantiles[2]))
    p50, p99, sparse_p50, sparse_p99, half_p50, half_p99, rate, times, of_sparse = map(
        median, zip(*rounds, strict=True)
    )
    return (
        f"A lone client that asks again at once is answered in {p50:.1f} ms (p50; p99 {p99:.1f} ms), one of "
        f"{SPARSE} requests a second at random times, which finds caches cold, in {sparse_p50:.1f} ms (p99 "
        f"{sparse_p99:.1f} ms). At half of what {CLIENTS} clients get, {rate:.0f} requests a second at random times, "
        f"p50 is {half_p50:.1f} ms and p99 {half_p99:.1f} ms, {times:.1f} and {of_sparse:.1f} times a lone p50; "
        f"{n_other} were answered with another status than 200."
    )


def overload(load: Load, url: str, seconds: float) -> str:
    """Behaviour at ten times the load that the server can answer, and how soon it recovers."""
    lone = median(ask(url, "a game of chess") for _ in range(20))
    capacity = throughput(load, url, MANY, seconds) / MANY
    answers = load.run("open", url, MANY, rate=10 * capacity, seconds=seconds)
    ended = time.monotonic()
    while ask(url, "a game of chess") > 3 * lone:
        pass
    recovered = time.monotonic() - ended
    n_all = sum(map(len, answers.values()))
    counts = ", ".join(f"{len(values)} × {status or 'connection lost'}" for status, values in sorted(answers.items()))
    p99 = np.quantile(answers[200], 0.99)
    return (
        f"At ten times what it can, for {seconds:.0f} s ({10 * capacity:.0f} requests of {MANY} texts a second were "
        f"due, {n_all / seconds:.0f} were sent): {counts}. p99 of those answered is {p99:.2f} s, "
        f"{p99 / DEADLINE:.2f} of the deadline of {DEADLINE:.0f} s. {recovered:.2f} s after the last answer a lone "
        "request takes less than three times its usual time."
    )


def soak(load: Load, url: str, pid: int, seconds: float) -> str:
    """Memory of the server under full load."""
    running = load.start("closed", url, 1, clients=CLIENTS, seconds=seconds)
    began, samples = time.monotonic(), []
    while running.poll() is None and time.monotonic() - began < seconds - 1:
        time.sleep(1)
        samples.append(resident_bytes(pid))
    answers = load.read(running)
    early = max(samples[: max(1, len(samples) // 10)])
    return (
        f"{seconds / 60:.0f} minutes of {CLIENTS} clients, {len(answers[200])} requests, statuses {sorted(answers)}: "
        f"peak memory {early / 1e6:.0f} MB in the first tenth, {max(samples) / 1e6:.0f} MB in all "
        f"({max(samples) / early - 1:+.1%})."
    )


def say(line: str) -> None:
    """Print progress on standard error."""
    print(line, file=sys.stderr, flush=True)


def machine(options: argparse.Namespace, texts: Sequence[str]) -> str:
    """The machine and the options of the measurement."""
    features = ", ".join(cpu_features()) or "no feature that matters here"
    return (
        f"{platform.system()} on {platform.machine()} ({features}), {options.threads} threads, {len(texts)} texts, "
        f"{options.rounds} rounds of {options.seconds:.0f} s, {CLIENTS} clients in a process of their own on the same "
        "cores."
    )


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", help="built with --include-torch")
    parser.add_argument("--corpus", required=True, help="texts of various lengths")
    parser.add_argument("--max-texts", type=int, default=2048, help="how many texts of the corpus to use at most")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0, help="seconds that each measurement takes")
    parser.add_argument(
        "--soak", type=float, default=0.0, metavar="SECONDS", help="how long to watch memory under full load"
    )
    parser.add_argument(
        "--found", type=Path, help="a file that keeps the results of each part, so that they are not measured again"
    )
    parser.add_argument("--quick", action="store_true", help="one round of 3 s")
    parser.add_argument("--write", type=Path, help="a Markdown file to write the tables into, between its marks")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 1, 3.0
    return options


def main() -> None:
    """Measure, and write the tables where asked."""
    options = parse()
    texts = list(read_corpus(options.corpus).texts[: options.max_texts])
    EdgeClassifier.from_pretrained(options.bundle)
    found = json.loads(options.found.read_text("utf-8")) if options.found and options.found.exists() else {}

    def keep(part: str, measure: Callable[[], str]) -> None:
        if part not in found:
            say(part)
            found[part] = measure()
            if options.found:
                options.found.write_text(json.dumps(found), "utf-8")

    with tempfile.TemporaryDirectory() as folder:
        load = Load(texts, Path(folder))
        keep("throughput", lambda: throughputs(options.bundle, texts, load, options).to_markdown())
        with served(OURS, options.bundle, options.threads) as (url, pid):
            keep("latency", lambda: latencies(load, url, options))
            keep("overload", lambda: overload(load, url, 2 * options.seconds))
            if options.soak:
                keep("soak", lambda: soak(load, url, pid, options.soak))
    parts = [machine(options, texts), *found.values()]
    text = "\n\n".join(parts)
    print(text)
    if options.write:
        write_between_marks(options.write, "benchmarks.serving.run", text)


if __name__ == "__main__":
    main()
