"""Scoring by Ray Data: texts stream from Parquet to actors that hold the teachers, and scores from there to the stores.

The driver deals out names of files and counts; no score passes through it. What is scored is on disk: a driver that was
killed goes on with what is missing.

Actors read the files themselves. Ray Data's own reading is tasks that want cores, and all cores belong to actors: on
two of them it never starts the second actor, or with both of them never reads (Ray 2.60).
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
from amalgam_edge.scoring.ray.worker import FILE, Open, ShardWorker, Work, cause
from amalgam_edge.scoring.score import open_stores
from amalgam_edge.scoring.store import ScoreStore
from amalgam_edge.storage import files
from amalgam_edge.storage.files import Location

_IN_FLIGHT = 2  # files that an actor may hold: with more, a slow node keeps others waiting at the end
_PATIENCE = 10.0  # seconds


@dataclass(frozen=True)
class Cluster:
    """Where the work is done.

    Attributes:
        address: of a running cluster, ``auto`` for the one that runs here; None starts one for as long as it takes.
        workers: how many actors; None for as many as there are GPUs, or cores over ``threads``.
        threads: cores of an actor.
        gpus: whether actors take a GPU each, where the cluster has any.
    """

    address: str | None = None
    workers: int | None = None
    threads: int = 1
    gpus: bool = True


def score_on_ray(
    open_teachers: Open, stores: Sequence[ScoreStore], corpus: Corpus, cluster: Cluster, advance: Advance
) -> None:
    """Score what the stores lack; what they come to is what the local engine comes to.

    Args:
        open_teachers: makes the teachers ready; it runs in each worker.
        stores: each teacher's, in a place that all nodes see.
        corpus: what to score.
        cluster: where.
        advance: told of each text once for each teacher.

    Raises:
        AmalgamError: there is no such cluster, it has no room for a worker, a worker fails for another reason than a
            text, or a store cannot be written to.
    """
    if not any(store.missing() for store in stores):
        open_stores(stores, advance)
        return
    beside = files.parent(stores[0].folder)
    pending, attempts = files.join(beside, ".pending"), files.join(beside, ".attempts")
    with _connected(cluster):
        most, options = _actors(cluster)
        missing = open_stores(stores, advance)  # not before: where no cluster answers, nothing is begun
        texts = write_pending(pending, corpus, stores[0], missing, workers=most)
        n_workers = min(most, len(texts))
        work = Work(open_teachers, stores, Attempts(_absolute(attempts)))
        actors = ray.data.ActorPoolStrategy(
            min_size=1, initial_size=n_workers, max_size=n_workers, max_tasks_in_flight_per_actor=_IN_FLIGHT
        )
        waiting = ray.data.from_items([{FILE: str(_absolute(file))} for file in texts], override_num_blocks=len(texts))
        try:
            done = waiting.map_batches(
                ShardWorker, fn_constructor_args=(work,), batch_size=1, compute=actors, **options
            )
            for row in done.iter_rows():
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
    """A connection to a cluster, ended when the block is left, unless there was one already.

    Ray tells its makers of each run, and asks a Prometheus every ten seconds to do so; here only if the user wants it.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if ray.is_initialized():
        yield
        return
    # Ray's core tells each driver that lost arguments keep an actor from starting again; they are lost with the driver.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        _knock(cluster.address)
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


def _knock(address: str | None) -> None:
    """Find out in seconds that nobody listens at ``HOST:PORT``; Ray takes minutes.

    Raises:
        OSError: nobody does.
    """
    host, _, port = (address or "").rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()


def _actors(cluster: Cluster) -> tuple[int, dict[str, float]]:
    """How many actors, and what each of them takes.

    Raises:
        AmalgamError: there is no room for one.
    """
    there = ray.cluster_resources()
    gpus = int(there.get("GPU", 0)) if cluster.gpus else 0
    if gpus:
        return cluster.workers or gpus, {"num_gpus": 1, "num_cpus": 0}
    cores = int(there.get("CPU", 0))
    if cores < cluster.threads:
        raise AmalgamError(f"--threads {cluster.threads}: the cluster has {cores} cores; name fewer")
    return cluster.workers or cores // cluster.threads, {"num_cpus": cluster.threads}
