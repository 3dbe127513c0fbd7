"""Scoring by Ray Data: actors hold the teachers, read texts from Parquet files and write scores to the stores.

The driver hands out names of files and counts texts; no score passes through it. Shards are on disk as soon as they are
scored, so a driver that was killed goes on with what is missing.

Actors read the files themselves. Ray Data would read them in tasks that need cores, but all cores belong to actors: on
two cores it never starts the second actor, or starts both and never reads (Ray 2.60).
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ray
import ray.data

from amalgam_edge.corpus import Corpus
from amalgam_edge.errors import AmalgamError, first_line
from amalgam_edge.progress import Advance
from amalgam_edge.scoring.ray.attempts import Attempts
from amalgam_edge.scoring.ray.pending import write_pending
from amalgam_edge.scoring.ray.worker import FILE, OpenTeachers, ShardWorker, WorkerTask, cause
from amalgam_edge.scoring.score import open_stores
from amalgam_edge.scoring.store import ScoreStore
from amalgam_edge.storage import files
from amalgam_edge.storage.files import Location

_FILES_IN_FLIGHT = 2  # that an actor may hold: with more, all others wait for a slow node at the end
_CONNECT_TIMEOUT = 10.0  # seconds


@dataclass(frozen=True)
class Cluster:
    """The Ray cluster that scores, and how many workers it runs.

    Attributes:
        address: Address of a running cluster; ``auto`` for the one that runs on this machine; None starts a cluster on
            this machine, and ends it when all is scored.
        workers: Number of actors; None for one on each GPU, or one for every ``threads`` cores.
        threads: Number of cores of an actor.
        gpus: Whether each actor takes a GPU, if the cluster has any.
    """

    address: str | None = None
    workers: int | None = None
    threads: int = 1
    gpus: bool = True


def score_on_ray(
    open_teachers: OpenTeachers, stores: Sequence[ScoreStore], corpus: Corpus, cluster: Cluster, advance: Advance
) -> None:
    """Score the shards that the stores lack; scores are those that the local engine computes.

    Args:
        open_teachers: Makes the teachers ready; it is called in each worker.
        stores: The store of each teacher, in a place that all nodes see.
        corpus: The texts.
        cluster: The cluster and its workers.
        advance: Is called with numbers of finished texts; each text counts once for each teacher.

    Raises:
        AmalgamError: There is no such cluster, it has too few cores for a worker, a worker fails for a reason other
            than a text, or a store cannot be written to.
    """
    if not any(store.missing() for store in stores):
        open_stores(stores, advance)
        return
    parent = files.parent(stores[0].folder)
    pending, attempts = files.join(parent, ".pending"), files.join(parent, ".attempts")
    with _connected(cluster):
        max_workers, resources = _actors(cluster)
        missing = open_stores(stores, advance)  # once connected, so that without a cluster no folder is made
        texts = write_pending(pending, corpus, stores[0], missing, workers=max_workers)
        n_workers = min(max_workers, len(texts))
        task = WorkerTask(open_teachers, stores, Attempts(_absolute(attempts)))
        actors = ray.data.ActorPoolStrategy(
            min_size=1, initial_size=n_workers, max_size=n_workers, max_tasks_in_flight_per_actor=_FILES_IN_FLIGHT
        )
        waiting = ray.data.from_items([{FILE: str(_absolute(file))} for file in texts], override_num_blocks=len(texts))
        try:
            finished = waiting.map_batches(
                ShardWorker, fn_constructor_args=(task,), batch_size=1, compute=actors, **resources
            )
            for row in finished.iter_rows():
                advance(len(stores) * row["n_texts"])
        except Exception as error:  # what Ray raises has no common base
            raise AmalgamError(
                f"scoring on the cluster ended ({cause(error)}); what was scored is kept: go on with --resume"
            ) from error
    files.delete_folder(pending)
    files.delete_folder(attempts)


def _absolute(location: Location) -> Location:
    return location.absolute() if isinstance(location, Path) else location


@contextmanager
def _connected(cluster: Cluster) -> Iterator[None]:
    """Connect to a cluster, and disconnect when the block is left, unless this process was connected already.

    Raises:
        AmalgamError: No cluster answers at the address.
    """
    if ray.is_initialized():
        yield
        return
    # Ray's core logs in each driver that actors cannot be restarted once their arguments are lost, as the driver ends.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        _require_listener(cluster.address)
        ray.init(
            address=cluster.address,
            include_dashboard=False if cluster.address is None else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (OSError, ValueError, ray.exceptions.RayError) as error:
        raise AmalgamError(f"--address {cluster.address}: no Ray cluster answers ({first_line(error)})") from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def _require_listener(address: str | None) -> None:
    """Check within seconds that something listens at ``HOST:PORT``; Ray itself would try for minutes.

    Raises:
        OSError: Nothing listens there.
    """
    host, _, port = (address or "").rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_TIMEOUT).close()


def _actors(cluster: Cluster) -> tuple[int, dict[str, float]]:
    """The number of actors, and the resources of each.

    Raises:
        AmalgamError: The cluster has fewer cores than one actor needs.
    """
    available = ray.cluster_resources()
    gpus = int(available.get("GPU", 0)) if cluster.gpus else 0
    if gpus:
        return cluster.workers or gpus, {"num_gpus": 1, "num_cpus": 0}
    cores = int(available.get("CPU", 0))
    if cores < cluster.threads:
        raise AmalgamError(f"--threads {cluster.threads}: the cluster has {cores} cores; name fewer")
    return cluster.workers or cores // cluster.threads, {"num_cpus": cluster.threads}
