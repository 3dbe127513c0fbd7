"""Fixtures shared by all tests: tiny random models, and a home for caches that is thrown away."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

_HOME = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """Cut the Hub off and move its caches before anything imports ``datasets`` or ``transformers``."""
    home = tempfile.mkdtemp(prefix="amalgam-tests-")
    config.stash[_HOME] = home
    os.environ["HF_HOME"] = home
    os.environ["HF_DATASETS_CACHE"] = str(Path(home, "datasets"))
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(config.stash[_HOME], ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny matrices gain nothing from threads, and shared machines lose by them."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """The tiny byte-level tokenizer."""
    import tiny

    return tiny.make_tokenizer()


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A folder that holds the tiny tokenizer and nothing else."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def make_classifier(tokenizer: Any) -> Callable[..., Path]:
    """``make_classifier(folder, labels, *, architecture, seed, dropout, layers, **config)`` → the folder."""
    import functools

    import tiny

    return functools.partial(tiny.make_classifier, tokenizer=tokenizer)


@pytest.fixture(scope="session")
def random_classifier(tokenizer: Any) -> Callable[..., Any]:
    """A random classifier in memory: ``random_classifier(labels, *, architecture, seed, dropout, layers)``."""
    import tiny

    def make(labels: Any = ("a", "b", "c"), **options: Any) -> Any:
        defaults = {"architecture": "bert", "seed": 0, "dropout": 0.1, "layers": 2, "tokenizer": tokenizer}
        return tiny.random_classifier(labels, **{**defaults, **options})

    return make


@pytest.fixture(scope="session")
def classifier_folder(tmp_path_factory: pytest.TempPathFactory, make_classifier: Callable[..., Path]) -> Path:
    """A saved BERT over games / science / net. Read only."""
    return make_classifier(tmp_path_factory.mktemp("bert"), ["games", "science", "net"])


@pytest.fixture(scope="session")
def other_classifier_folder(tmp_path_factory: pytest.TempPathFactory, make_classifier: Callable[..., Path]) -> Path:
    """A saved RoBERTa over text / net. Read only."""
    return make_classifier(tmp_path_factory.mktemp("roberta"), ["text", "net"], architecture="roberta", seed=1)
