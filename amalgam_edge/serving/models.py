"""The bundles that a server answers with, each swapped for a new version while requests go on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from amalgam_edge.browser.site import describe, model_files
from amalgam_edge.errors import AmalgamError
from amalgam_edge.runtime.bundle import version_of
from amalgam_edge.runtime.classifier import EdgeClassifier
from amalgam_edge.runtime.model_runner import cores
from amalgam_edge.serving.batching import Answer, MicroBatcher
from amalgam_edge.serving.limits import Limits
from amalgam_edge.serving.metrics import Metrics

_WARM_UP = ["warm up", "a longer text, so that a second shape is known too"]


@dataclass(frozen=True)
class Options:
    """How bundles are opened.

    Attributes:
        precision: one of the bundle's; by default the bundle's own choice.
        threads: to compute with, a batch each; by default one a core.
        cascade: let a bundle's static student answer where it is sure; by default where the bundle has one.
    """

    precision: str | None = None
    threads: int | None = None
    cascade: bool | None = None


class ServedModel:
    """One version of a bundle with its queue; made on the event loop that serves it.

    Args:
        name: by which requests ask for it.
        classifier: open and warm.
        version: of the bundle: the first digits of its manifest's SHA-256.
        limits: of the server.
        metrics: of the server.
        at_once: batches that run at a time, a thread each.
    """

    def __init__(
        self, name: str, classifier: EdgeClassifier, version: str, limits: Limits, metrics: Metrics, at_once: int
    ) -> None:
        self.name = name
        self.classifier = classifier
        self.version = version
        self.labels = classifier.labels
        self.label_json = [json.dumps(label, ensure_ascii=False) for label in self.labels]
        self._metrics = metrics
        self._batcher = MicroBatcher(
            classifier.run,
            max_length=classifier.max_length,
            limits=limits,
            observe=self._count,
            at_once=at_once,
        )

    @property
    def queued(self) -> int:
        """Texts that wait for it."""
        return self._batcher.queued

    @cached_property
    def page_description(self) -> dict[str, Any]:
        """What the page must know of it; its tokenizer is read once."""
        return describe(self.name, self.classifier.bundle, self.version)

    @cached_property
    def page_files(self) -> dict[str, Path]:
        """What the page needs of it, by name; checked once."""
        return model_files(self.classifier.bundle)

    async def answer(self, texts: Sequence[str]) -> Answer:
        """See :meth:`MicroBatcher.answer`."""
        return await self._batcher.answer(texts)

    async def close(self) -> None:
        """Answer what has been taken on, and end."""
        await self._batcher.close()

    def _count(self, answer: Answer) -> None:
        threshold = self.classifier.abstain
        n_unsure = int((answer.probabilities.max(axis=1) < threshold).sum()) if threshold else 0
        self._metrics.batch(self.name, len(answer), int(answer.truncated.sum()), n_unsure)


class Models:
    """The bundles by name; the first is the one that requests without a name mean.

    Args:
        folders: name → folder of a bundle, or its name on the Hub.
        options: how they are opened.
        limits: of the server.
        metrics: of the server.
    """

    def __init__(self, folders: dict[str, str], options: Options, limits: Limits, metrics: Metrics) -> None:
        self._folders = folders
        self._options = options
        self._limits = limits
        self._metrics = metrics
        self._served: dict[str, ServedModel] = {}
        self._faults: dict[str, str] = {}
        self._retired: set[asyncio.Task[None]] = set()

    @property
    def names(self) -> list[str]:
        """All names, in the order given."""
        return [*self._folders]

    @property
    def ready(self) -> bool:
        """Whether all are loaded."""
        return len(self._served) == len(self._folders)

    def get(self, name: str | None = None) -> ServedModel | None:
        """The model of a name, or the first; None where there is none."""
        return self._served.get(next(iter(self._folders)) if name is None else name)

    def fault(self, name: str) -> str | None:
        """Why the last new version of a bundle was not taken; None where it was."""
        return self._faults.get(name)

    async def load(self) -> None:
        """Open all bundles.

        Raises:
            AmalgamError: one cannot be opened.
        """
        for name in self._folders:
            await self._swap(name)

    async def reload(self) -> dict[str, str]:
        """Open anew what has changed on disk; a version that cannot be opened leaves the old one in its place.

        Returns:
            name → what came of it, of those that have changed.
        """
        said = {}
        for name, folder in self._folders.items():
            version = version_of(folder)
            if version == self._served[name].version:
                self._faults.pop(name, None)
                continue
            try:
                await self._swap(name)
            except AmalgamError as error:
                if self._faults.get(name) != str(error):  # it is tried again each time, and said once
                    self._faults[name] = str(error)
                    said[name] = f"not taken, version {self._served[name].version} goes on: {error}"
                    self._metrics.reloaded(name, taken=False)
            else:
                self._faults.pop(name, None)
                said[name] = f"version {self._served[name].version}"
                self._metrics.reloaded(name, taken=True)
        return said

    async def close(self) -> None:
        """Answer what has been taken on, and end."""
        await asyncio.gather(*(model.close() for model in self._served.values()), *self._retired)

    async def _swap(self, name: str) -> None:
        folder = self._folders[name]
        version = version_of(folder)
        classifier = await asyncio.to_thread(_open, folder, self._options)
        old = self._served.get(name)
        at_once = self._options.threads or cores()
        self._served[name] = ServedModel(name, classifier, version, self._limits, self._metrics, at_once)
        if old is not None:
            task = asyncio.create_task(old.close())
            self._retired.add(task)
            task.add_done_callback(self._retired.discard)


def _open(folder: str, options: Options) -> EdgeClassifier:
    classifier = EdgeClassifier.from_pretrained(folder, precision=options.precision, threads=1, cascade=options.cascade)
    logits = classifier.logits(_WARM_UP)
    if not np.isfinite(logits).all():
        raise AmalgamError(f"{folder}: the model gives scores that are not finite; build the bundle again")
    return classifier
