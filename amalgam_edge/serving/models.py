"""The models that a server answers with; a new version of a bundle replaces the old one while requests go on."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, TypeVar

import numpy as np

from amalgam_edge.browser.site import describe_model, model_files
from amalgam_edge.cores import compute_threads
from amalgam_edge.errors import AmalgamError, first_line
from amalgam_edge.runtime.bundle import version_of
from amalgam_edge.runtime.classifier import EdgeClassifier
from amalgam_edge.runtime.hub import HubOptions
from amalgam_edge.runtime.predictions import any_abstains
from amalgam_edge.serving.batching import MicroBatcher, ModelOutput
from amalgam_edge.serving.limits import Limits
from amalgam_edge.serving.metrics import ServerMetrics
from amalgam_edge.storage.own_files import FileContent

T = TypeVar("T")

_log = logging.getLogger(__name__)
_WARM_UP_TEXTS = ["warm up", "a longer text, so that a second shape is known too"]


@dataclass(frozen=True)
class LoadOptions:
    """How bundles are loaded.

    Attributes:
        precision: One of the bundle's precisions; None for the bundle's own choice.
        threads: Threads to compute with, each on a batch of its own, at most one per usable core; None for that many.
        cascade: Whether a bundle's static student answers where it is sure; None for wherever the bundle has one.
        device: ``cpu``, ``cuda`` or ``cuda:N``. A GPU computes one batch after another.
        hub: How bundles of the Hub are fetched.
    """

    precision: str | None = None
    threads: int | None = None
    cascade: bool | None = None
    device: str = "cpu"
    hub: HubOptions = field(default_factory=HubOptions)


class ServedModel:
    """One version of a bundle with its queue. Create it on the event loop that serves it.

    Args:
        name: Name by which requests ask for the model.
        classifier: A classifier that has run before.
        version: Version of the bundle: the first digits of its manifest's SHA-256.
        limits: Limits of the server.
        metrics: Counts the batches.
        n_threads: Batches that run at a time, one per thread.
    """

    def __init__(
        self,
        name: str,
        classifier: EdgeClassifier,
        version: str,
        limits: Limits,
        metrics: ServerMetrics,
        n_threads: int,
    ) -> None:
        self.name = name
        self.classifier = classifier
        self.version = version
        self.labels = classifier.labels
        self.heads = classifier.heads
        self.labels_as_json = [json.dumps(label, ensure_ascii=False) for head in self.heads for label in head.labels]
        self._metrics = metrics
        self._batcher = MicroBatcher(
            classifier.run,
            max_length=classifier.max_length,
            limits=limits,
            heads=self.heads,
            on_batch=self._count_batch,
            on_failure=partial(metrics.count_failure, name),
            n_threads=n_threads,
        )

    @property
    def n_queued(self) -> int:
        """The number of texts that wait for this model."""
        return self._batcher.n_queued

    @property
    def fault(self) -> str | None:
        """Why the model can no longer answer as it should; None if it can."""
        return self._batcher.fault

    @cached_property
    def page_description(self) -> dict[str, Any]:
        """The page's description of the model. Cached, since it reads the tokenizer."""
        return describe_model(self.name, self.classifier.bundle)

    @cached_property
    def page_files(self) -> dict[str, FileContent]:
        """Name → content of a file that the page loads to run the model; what was checked is what is sent."""
        return model_files(self.classifier.bundle)

    async def run(self, texts: Sequence[str]) -> ModelOutput:
        """See :meth:`MicroBatcher.run`."""
        return await self._batcher.run(texts)

    async def close(self) -> None:
        """Refuse further requests and answer those that wait."""
        await self._batcher.close()

    def _count_batch(self, output: ModelOutput) -> None:
        n_abstentions = int(any_abstains(self.heads, output.probabilities).sum())
        self._metrics.count_batch(
            self.name, n_texts=len(output), n_truncated=int(output.truncated.sum()), n_abstentions=n_abstentions
        )


class ModelRegistry:
    """The served models by name. The first one answers requests that name no model.

    Args:
        folders: Name → folder of a bundle, or its name on the Hub.
        options: How bundles are loaded.
        limits: Limits of the server.
        metrics: Counts batches and reloads.

    Attributes:
        reloading_fault: Why bundles are no longer reloaded; None if they are. The server's process sets it.
    """

    def __init__(self, folders: dict[str, str], options: LoadOptions, limits: Limits, metrics: ServerMetrics) -> None:
        self._folders = folders
        self._options = options
        self._limits = limits
        self._metrics = metrics
        self._served: dict[str, ServedModel] = {}
        self._reload_errors: dict[str, str] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self.reloading_fault: str | None = None

    @property
    def names(self) -> list[str]:
        """All names, in the order given."""
        return [*self._folders]

    @property
    def fault(self) -> str | None:
        """Why the server is not ready: a model is not loaded or no longer answers, or reloading has ended."""
        if len(self._served) < len(self._folders):
            return "models are being loaded"
        faults = (f"{name}: {model.fault}" for name, model in self._served.items() if model.fault)
        return next(faults, self.reloading_fault)

    def get(self, name: str | None = None) -> ServedModel | None:
        """The model with this name, or the first model if no name is given; None if there is none."""
        return self._served.get(next(iter(self._folders)) if name is None else name)

    def reload_error(self, name: str) -> str | None:
        """Why the bundle's newest version was refused; None if it was not."""
        return self._reload_errors.get(name)

    async def load(self) -> None:
        """Load all bundles.

        Raises:
            AmalgamError: A bundle cannot be loaded, for whatever reason.
        """
        for name in self._folders:
            await self._load(name)

    async def reload(self) -> dict[str, str]:
        """Load the bundles that have changed on disk. If one cannot be loaded, its old version goes on answering.

        Returns:
            Name → message, for each bundle that was replaced or newly refused.
        """
        messages = {}
        for name in self._folders:
            try:
                if await self._version_on_disk(name) != self._served[name].version:
                    await self._load(name)
                    messages[name] = f"version {self._served[name].version}"
                    self._metrics.count_reload(name, taken=True)
            except AmalgamError as error:
                if self._reload_errors.get(name) != str(error):  # it is tried each time, but reported once
                    self._reload_errors[name] = str(error)
                    messages[name] = f"not taken, version {self._served[name].version} goes on: {error}"
                    self._metrics.count_reload(name, taken=False)
                    if error.__cause__ is not None:
                        _log.error("%s: cannot be loaded", name, exc_info=error.__cause__)
            else:
                self._reload_errors.pop(name, None)
        return messages

    async def close(self) -> None:
        """Refuse further requests and answer those that wait."""
        await asyncio.gather(*(model.close() for model in self._served.values()), *self._closing)

    async def _version_on_disk(self, name: str) -> str:
        """The version of the bundle in the folder that a model was loaded from; one of the Hub stays at its commit.

        Raises:
            AmalgamError: There is one, but it cannot be read.
        """
        bundle = self._served[name].classifier.bundle
        if bundle.hub is not None:
            return bundle.version
        folder = bundle.folder
        return await asyncio.to_thread(_or_amalgam_error, str(folder), lambda: version_of(folder))

    async def _load(self, name: str) -> None:
        """Load a bundle; the version that it replaces answers what waits for it and ends.

        Raises:
            AmalgamError: The bundle cannot be loaded, for whatever reason.
        """
        folder = self._folders[name]
        classifier = await asyncio.to_thread(_or_amalgam_error, folder, lambda: _open_classifier(folder, self._options))
        version = classifier.bundle.version
        n_threads = compute_threads(self._options.threads) if self._options.device == "cpu" else 1
        replaced = self._served.get(name)
        self._served[name] = _or_amalgam_error(
            folder, lambda: ServedModel(name, classifier, version, self._limits, self._metrics, n_threads)
        )
        if replaced is not None:
            task = asyncio.create_task(replaced.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


def _or_amalgam_error(folder: str, function: Callable[[], T]) -> T:
    """What a function returns that reads a bundle.

    A damaged bundle, a full memory, a lack of descriptors or a panic in a library may raise anything. Nothing of it
    may end the task or the process that waits for it, and some exceptions (StopIteration) would not even reach it.

    Raises:
        AmalgamError: The function raised something; the cause is what it was.
    """
    try:
        return function()
    except AmalgamError:
        raise
    except BaseException as error:
        raise AmalgamError(f"{folder}: cannot be loaded ({type(error).__name__}: {first_line(error)})") from error


def _open_classifier(folder: str, options: LoadOptions) -> EdgeClassifier:
    """A classifier that has run once, so that a bundle that gives no finite scores is refused before it answers."""
    classifier = EdgeClassifier.from_pretrained(
        folder,
        precision=options.precision,
        threads=1,
        cascade=options.cascade,
        device=options.device,
        **options.hub,
    )
    logits = classifier.logits(_WARM_UP_TEXTS)
    if logits.ndim != 2 or logits.shape[1] != len(classifier.labels):
        raise AmalgamError(f"{folder}: the model gives logits of shape {logits.shape}; build the bundle again")
    if not np.isfinite(logits).all():
        raise AmalgamError(f"{folder}: the model gives scores that are not finite; build the bundle again")
    return classifier
