"""What the other servers have in common: a transformers pipeline, and their command line."""

from __future__ import annotations

import argparse
from typing import Any


def load_classifier(folder: str, threads: int) -> Any:
    """Load the student in torch as a pipeline that returns a score for every label."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    torch.set_num_threads(threads)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None, device="cpu")


def texts_of(inputs: str | list[str]) -> list[str]:
    """The texts of a request, which may be a single one."""
    return [inputs] if isinstance(inputs, str) else inputs


def parse(description: str) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("bundle", help="built with --include-torch")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()
