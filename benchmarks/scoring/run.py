"""Compare ways to score teachers under dropout: their speed, and the error that comes with it.

    python -m benchmarks.scoring.run runs/teacher-a runs/teacher-b --corpus runs/unlabeled.jsonl --output runs/scoring

Run it after `make demo`, or with teachers and texts of your own; it takes 40 minutes on 2 cores. The results of each
part are kept in the output folder, so that a single part can be measured again, as in `--parts masks`; use another
folder for another `--device`. Part `ways` compares these ways to score:

  a  the paper's: torch, eager attention, train mode, 16 independent passes, batches of 32, all padded to 128 tokens
  b  torch, well tuned: the same passes, sorted by length, padded per batch; the fastest of several batch sizes and
     attention implementations, found first
  c  ours on torch, 10 balanced passes
  d  ours on ONNX Runtime, 10 balanced passes
  e  ours on ONNX Runtime, adaptive passes

Each also makes the prediction without dropout, which takes one more pass. Tokenizing is timed; exporting, which is done
once per teacher, is not. The truth is the normalised entropy over 512 passes with independent masks on ONNX Runtime,
whose passes are tested to equal those of torch; it is kept in the output folder for the next run. Ways a and b make the
same estimate, with torch's own dropout, so both get the error of b, over all texts.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from statistics import median
from time import perf_counter, sleep

import numpy as np
import onnxruntime
import torch
from transformers import AutoModelForSequenceClassification

from amalgam_edge.corpus import read_corpus
from amalgam_edge.exporters.student_export import export_student
from amalgam_edge.exporters.teacher_export import export_teacher
from amalgam_edge.inference.batches import encode
from amalgam_edge.inference.onnx_runner import OnnxRunner
from amalgam_edge.inference.runner import DropoutRunner
from amalgam_edge.inference.torch_runner import TorchRunner
from amalgam_edge.metrics.uncertainty import normalised_entropy
from amalgam_edge.models.teacher import Teacher, load_teacher
from amalgam_edge.recipe.sections import ScoringSettings
from amalgam_edge.runtime.session import open_session
from amalgam_edge.scoring.backends import Backend
from amalgam_edge.scoring.score import score_texts
from amalgam_edge.scoring.scores import TeacherScores
from benchmarks.scoring.tables import PARTS, tables

PAPER_PASSES, PAPER_LENGTH, PAPER_BATCH = 16, 128, 32
OVERHEAD_SHAPES = ((8, 16), (8, 128), (32, 64), (64, 12))
BATCHES, GPU_BATCHES = (32, 64, 128), (128, 512, 1024)  # batch sizes that the tuned loop is chosen from


class TorchLoop:
    """The loop that a user would write: train mode, several passes, softmax, mean."""

    def __init__(
        self, teacher: Teacher, *, attention: str, batch: int, pad_to: int | None = None, device: str = "cpu"
    ) -> None:
        self._model = AutoModelForSequenceClassification.from_pretrained(
            teacher.source, attn_implementation=attention, dtype=torch.float32
        ).to(device)
        self._teacher = teacher
        self._batch = batch
        self._pad_to = pad_to

    def passes(self, texts: Sequence[str], n: int) -> np.ndarray:
        """Probabilities ``(n, n_texts, n_classes)`` with dropout on."""
        self._model.train()
        found = np.empty((n, len(texts), len(self._teacher.class_names)), np.float32)
        for rows, inputs in self._batches(texts):
            for k in range(n):
                found[k, rows] = self._model(**inputs).logits.softmax(-1).cpu().numpy()
        return found

    @torch.inference_mode()
    def uncertainty(self, texts: Sequence[str], n: int = PAPER_PASSES) -> np.ndarray:
        """Normalised entropy u of each text, ``(n_texts,)``; also runs the pass without dropout that methods need."""
        mean = self.passes(texts, n).mean(axis=0)
        self._model.eval()
        for _, inputs in self._batches(texts):
            self._model(**inputs).logits.softmax(-1).cpu().numpy()
        return normalised_entropy(mean.astype(float))

    def _batches(self, texts: Sequence[str]) -> Iterator[tuple[np.ndarray, dict[str, torch.Tensor]]]:
        tokenizer = self._teacher.tokenizer
        rows = np.arange(len(texts))
        if self._pad_to is None:
            lengths = [len(ids) for ids in encode(texts, tokenizer, PAPER_LENGTH)]
            rows = np.argsort(lengths, kind="stable")
        for start in range(0, len(rows), self._batch):
            chosen = rows[start : start + self._batch]
            padding = {"padding": "max_length"} if self._pad_to else {"padding": True}
            yield (
                chosen,
                dict(
                    tokenizer(
                        [texts[row] for row in chosen],
                        truncation=True,
                        max_length=self._pad_to or PAPER_LENGTH,
                        return_tensors="pt",
                        return_token_type_ids=False,
                        **padding,
                    ).to(self._model.device)
                ),
            )


Way = Callable[[Sequence[str], int], list[TeacherScores]]


def ours(
    teachers: Sequence[Teacher],
    open_runner: Callable[[int, int], DropoutRunner],
    passes: int | str,
    batch_tokens: int,
) -> Way:
    """A way to score with the product's own scorer; ``open_runner`` takes a teacher's position and a seed."""

    def run(texts: Sequence[str], seed: int) -> list[TeacherScores]:
        runners = [open_runner(position, seed) for position in range(len(teachers))]
        settings = ScoringSettings(passes=passes, seed=seed, batch_tokens=batch_tokens)
        return score_texts(teachers, runners, texts, settings, lambda count: None)

    return run


def our_ways(teachers: Sequence[Teacher], folder: Path, device: str) -> dict[str, Way]:
    """Our ways on torch, and on ONNX Runtime with teachers exported into a folder; runners are opened once."""
    models = [folder / f"{position}.onnx" for position in range(len(teachers))]
    for teacher, model in zip(teachers, models, strict=True):
        print(f"exporting {teacher.name}", file=sys.stderr, flush=True)
        export_teacher(teacher, model, passes=10)

    @cache
    def on_torch(position: int, seed: int) -> DropoutRunner:
        return TorchRunner(teachers[position].model, teachers[position].sites, seed=seed, passes=10, device=device)

    @cache
    def on_onnx(position: int, seed: int) -> DropoutRunner:
        return OnnxRunner(models[position], seed=seed, device=device)

    tokens = {name: Backend(name, device).batch_tokens for name in ("torch", "onnxruntime")}
    return {
        "c  ours, torch, 10 passes": ours(teachers, on_torch, 10, tokens["torch"]),
        "d  ours, ONNX Runtime, 10 passes": ours(teachers, on_onnx, 10, tokens["onnxruntime"]),
        "e  ours, ONNX Runtime, adaptive": ours(teachers, on_onnx, "auto", tokens["onnxruntime"]),
    }


def find_truth(teachers: Sequence[Teacher], texts: Sequence[str], passes: int, folder: Path, device: str) -> np.ndarray:
    """U of each teacher and text from many independent passes, ``(n_teachers, n_texts)``; read if measured before."""
    file = folder / "truth.json"
    key = [[teacher.fingerprint for teacher in teachers], list(texts), passes]
    if file.exists():
        kept = json.loads(file.read_text("utf-8"))
        if kept["key"] == key:
            return np.array(kept["u"])
    batch_tokens = Backend("onnxruntime", device).batch_tokens
    settings = ScoringSettings(passes=passes, masks="independent", seed=10_000, batch_tokens=batch_tokens)
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        for teacher in teachers:
            print(f"truth: {passes} passes of {teacher.name}", file=sys.stderr, flush=True)
            model = Path(scratch, f"{teacher.name}.onnx")
            export_teacher(teacher, model, passes=1, masks="independent")
            runner = OnnxRunner(model, seed=settings.seed, device=device)
            found.append(score_texts([teacher], [runner], texts, settings, lambda count: None)[0].uncertainty)
    file.write_text(json.dumps({"key": key, "u": np.stack(found).tolist()}), "utf-8")
    return np.stack(found)


def seconds(work: Callable[[], object]) -> tuple[float, object]:
    """Seconds that some work took, and its result."""
    start = perf_counter()
    result = work()
    return perf_counter() - start, result


def best_loop(teachers: Sequence[Teacher], texts: Sequence[str], device: str) -> tuple[str, list[TorchLoop]]:
    """The fastest of several well-tuned loops, measured by two passes over some texts, and its description."""
    found = {}
    for attention, batch in itertools.product(("sdpa", "eager"), BATCHES if device == "cpu" else GPU_BATCHES):
        loop = TorchLoop(teachers[0], attention=attention, batch=batch, device=device)
        loop.uncertainty(texts[:64], 1)
        found[attention, batch] = min(seconds(lambda loop=loop: loop.uncertainty(texts, 2))[0] for _ in range(2))
    attention, batch = min(found, key=lambda pair: found[pair])
    loops = [TorchLoop(teacher, attention=attention, batch=batch, device=device) for teacher in teachers]
    return f"{attention} attention, batches of {batch}", loops


def compare(
    teachers: Sequence[Teacher],
    texts: Sequence[str],
    few: Sequence[str],
    repeats: int,
    truth: np.ndarray,
    products: dict[str, Way],
    device: str,
) -> list[dict]:
    """Rows of the main table: texts per second (all teachers), error of u, and share of other teachers picked."""
    paper = [TorchLoop(t, attention="eager", batch=PAPER_BATCH, pad_to=PAPER_LENGTH, device=device) for t in teachers]
    tuned_as, tuned = best_loop(teachers, texts[: 128 if device == "cpu" else 1024], device)
    for loop in paper:
        loop.uncertainty(few[:PAPER_BATCH], 1)
    for way, run in products.items():
        for seed in range(repeats):
            print(f"warming up {way}, seed {seed}", file=sys.stderr, flush=True)
            run(texts[:32] if device == "cpu" else texts, seed)

    names = ["a  torch, the paper's way", f"b  torch, {tuned_as}", *products]
    rates: dict[str, list[float]] = {name: [] for name in names}
    estimates: dict[str, list[np.ndarray]] = {name: [] for name in names}
    passes = dict.fromkeys(names, float(PAPER_PASSES))
    for seed in range(repeats):
        print(f"round {seed + 1} of {repeats}", file=sys.stderr, flush=True)
        spent, _ = seconds(lambda: [loop.uncertainty(few) for loop in paper])
        rates[names[0]].append(len(few) / spent)
        spent, found = seconds(lambda: np.stack([loop.uncertainty(texts) for loop in tuned]))
        rates[names[1]].append(len(texts) / spent)
        estimates[names[0]].append(found)
        estimates[names[1]].append(found)
        for name, run in products.items():
            spent, scores = seconds(lambda run=run, seed=seed: run(texts, seed))
            rates[name].append(len(texts) / spent)
            estimates[name].append(np.stack([row.uncertainty for row in scores]))
            passes[name] = float(np.mean([row.passes.mean() for row in scores]))
    rows = []
    for name in names:
        errors = [np.sqrt(np.square(found - truth).mean()) for found in estimates[name]]
        differ = [(found.argmin(axis=0) != truth.argmin(axis=0)).mean() for found in estimates[name]]
        rows.append(
            {
                "way": name,
                "passes": passes[name],
                "texts_per_second": median(rates[name]),
                "range": [min(rates[name]), max(rates[name])],
                "rmse_u": float(np.sqrt(np.mean(np.square(errors)))),
                "other_pick": float(np.mean(differ)),
            }
        )
    return rows


def mask_overhead(teacher: Teacher, device: str, repeats: int = 15) -> list[dict]:
    """Time of a masked pass over that of the same teacher exported without dropout; the two take turns."""
    with tempfile.TemporaryDirectory() as folder:
        masked, plain = Path(folder, "masked.onnx"), Path(folder, "plain.onnx")
        teacher.model.to("cpu")  # an earlier part may have moved it to another device
        export_teacher(teacher, masked, passes=10)
        export_student(teacher.model, plain)
        sessions = [open_session(file, device=device) for file in (masked, plain)]
    rows = []
    for shape in OVERHEAD_SHAPES:
        ids = np.random.default_rng(0).integers(1000, 2000, shape)
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        masks = [{"mc_pass": np.array(k), "mc_seed": np.array(0)} for k in range(10)]
        ratios = [
            _pass_seconds(sessions[0], [inputs | mask for mask in masks])
            / _pass_seconds(sessions[1], [inputs] * len(masks))
            for _ in range(repeats)
        ]
        rows.append({"texts": shape[0], "tokens": shape[1], "ratio": median(ratios)})
    return rows


def _pass_seconds(session: onnxruntime.InferenceSession, feeds: Sequence[dict]) -> float:
    """Median seconds of a pass, measured after another session's threads have gone to sleep and ours are awake."""
    sleep(0.02)
    taken = [seconds(lambda feed=feed: session.run(None, feed))[0] for feed in [*feeds[:2], *feeds]]
    return median(taken[2:])


def growth(teacher: str, texts: Sequence[str], sizes: Sequence[int], device: str) -> list[dict]:
    """Seconds and peak memory of `amalgam-edge score` on growing numbers of texts."""
    rows = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            corpus = Path(folder, "texts.jsonl")
            with corpus.open("w", encoding="utf-8") as file:
                for k in range(size):
                    text = texts[k % len(texts)] + (f" ({k // len(texts)})" if k >= len(texts) else "")
                    file.write(json.dumps({"text": text}) + "\n")
            command = [sys.executable, "-m", "amalgam_edge.cli", "score", "--teacher", teacher, "--corpus", str(corpus)]
            command += ["--backend", "onnxruntime", "--device", device, "--passes", "10"]
            command += ["--output", str(Path(folder, "scores"))]
            measured = subprocess.run(
                [sys.executable, "-m", "benchmarks.scoring.run", "--measure", *command],
                check=True,
                capture_output=True,
                text=True,
            )
            rows.append({"texts": size, **json.loads(measured.stdout.splitlines()[-1])})
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def measure_command(command: Sequence[str]) -> None:
    """Run a command and print its seconds and its peak memory as JSON."""
    spent, _ = seconds(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(json.dumps({"seconds": spent, "peak_mb": peak}))


def main() -> None:
    """Measure the parts and print the tables."""
    if sys.argv[1:2] == ["--measure"]:
        measure_command(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teachers", nargs="+")
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder for the truth, the results and the tables")
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--paper-texts", type=int, default=64, help="number of texts that way a is timed on")
    parser.add_argument("--truth", type=int, default=512, help="number of passes that are taken as the truth")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--growth", type=int, nargs="*", default=[1000, 4000, 16000], help="numbers of texts in the part growth"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N, for torch and ONNX Runtime alike")
    arguments = parser.parse_args()

    arguments.output.mkdir(parents=True, exist_ok=True)
    results = arguments.output / "scoring.json"
    found = json.loads(results.read_text("utf-8")) if results.exists() else {}
    teachers = [load_teacher(f"teacher-{k}", source) for k, source in enumerate(arguments.teachers)]
    corpus = list(read_corpus(arguments.corpus).texts)
    for part in arguments.parts:
        if part == "ways":
            found[part] = measure_ways(teachers, corpus, arguments)
        elif part == "masks":
            found[part] = mask_overhead(teachers[0], arguments.device)
        else:
            found[part] = growth(arguments.teachers[0], corpus, arguments.growth, arguments.device)
        results.write_text(json.dumps(found, indent=2) + "\n", "utf-8")
    (arguments.output / "scoring.md").write_text(tables(found) + "\n", "utf-8")
    print(tables(found))


def measure_ways(teachers: Sequence[Teacher], corpus: Sequence[str], arguments: argparse.Namespace) -> dict:
    """The rows of the main table, and what they were measured on."""
    texts = corpus[: arguments.texts]
    few = texts[:: max(1, len(texts) // arguments.paper_texts)][: arguments.paper_texts]
    device = arguments.device
    truth = find_truth(teachers, texts, arguments.truth, arguments.output, device)
    with tempfile.TemporaryDirectory() as folder:
        ways = our_ways(teachers, Path(folder), device)
        rows = compare(teachers, texts, few, arguments.repeats, truth, ways, device)
    return {
        "texts": len(texts),
        "mean_tokens": float(np.mean([len(ids) for ids in encode(texts, teachers[0].tokenizer, PAPER_LENGTH)])),
        "teachers": len(teachers),
        "repeats": arguments.repeats,
        "rows": rows,
    }


if __name__ == "__main__":
    main()
