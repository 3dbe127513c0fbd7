"""Measure how fast dropout estimates converge with the number of passes: systematic against independent masks.

    python -m benchmarks.scoring.mask_convergence runs/teacher-a --corpus runs/unlabeled.jsonl

The truth is the normalised predictive entropy u of each text over ``--truth`` independent passes. Printed is the root
mean square error of u from K passes, over texts and seeds. Systematic masks are balanced over rounds of ten passes.
"""

from __future__ import annotations

import argparse

import numpy as np

from amalgam_edge.corpus import read_corpus
from amalgam_edge.inference.batches import batches_by_length, encode
from amalgam_edge.inference.torch_runner import TorchRunner
from amalgam_edge.metrics.uncertainty import normalised_entropy, softmax
from amalgam_edge.models.teacher import Teacher, load_teacher


def uncertainty(teacher: Teacher, texts: list[str], *, passes: int, masks: str, seed: int) -> np.ndarray:
    """Normalised predictive entropy u of each text from some passes, ``(n_texts,)``."""
    runner = TorchRunner(teacher.model, teacher.sites, seed=seed, passes=min(passes, 10), masks=masks)
    found = np.empty(len(texts))
    encoded = encode(texts, teacher.tokenizer, teacher.max_length)
    for batch in batches_by_length(encoded, pad_token_id=teacher.tokenizer.pad_token_id, batch_tokens=4096):
        total = sum(softmax(runner.run(batch.input_ids, batch.attention_mask, [k])[0]) for k in range(passes))
        found[batch.rows] = normalised_entropy(total / passes)
    return found


def main() -> None:
    """Measure both kinds of masks and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher")
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument(
        "--truth", type=int, default=384, help="number of independent passes that are taken as the truth"
    )
    parser.add_argument("--passes", type=int, nargs="+", default=[5, 10, 16, 32])
    parser.add_argument("--seeds", type=int, default=4)
    arguments = parser.parse_args()

    teacher = load_teacher("teacher", arguments.teacher)
    texts = list(read_corpus(arguments.corpus).texts[: arguments.texts])
    truth = uncertainty(teacher, texts, passes=arguments.truth, masks="independent", seed=10_000)
    print(f"{'masks':<14}" + "".join(f"{f'K={k}':>9}" for k in arguments.passes))
    for masks in ("independent", "systematic"):
        errors = [
            np.sqrt(
                np.mean(
                    [
                        np.square(uncertainty(teacher, texts, passes=k, masks=masks, seed=seed) - truth)
                        for seed in range(arguments.seeds)
                    ]
                )
            )
            for k in arguments.passes
        ]
        print(f"{masks:<14}" + "".join(f"{error:>9.4f}" for error in errors), flush=True)


if __name__ == "__main__":
    main()
