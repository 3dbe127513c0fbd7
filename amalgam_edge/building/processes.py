"""Training on several processes: started for each fit, or the members of a group that something else started."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from amalgam_edge.building import stages
from amalgam_edge.building.stages import Lesson, Student
from amalgam_edge.building.training_job import recipe_of, run_job, take_result, write_job
from amalgam_edge.errors import AmalgamError
from amalgam_edge.inference.devices import resolve_device
from amalgam_edge.progress import Advance
from amalgam_edge.recipe.recipe import Recipe
from amalgam_edge.training.fitting import History, TrainingSettings

ADVANCE = "advance "  # what the first process of a launched fit says of its updates, with their number
LOG = "processes.log"
_JOB = "job"
_GO_ON = "build again with --resume to go on from the last epoch that was finished"
_OF_THE_GROUP = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_PATIENCE = timedelta(minutes=30)
_FAILED = re.compile(r"^\s*rank\s*:\s*(\d+).*\n\s*exitcode\s*:\s*(-?\d+)", re.MULTILINE)
_MISTAKE = re.compile(r"^Error: (.+)$", re.MULTILINE)


class Company(ABC):
    """Processes that train a student together."""

    @abstractmethod
    def check(self, recipe: Recipe) -> None:
        """Refuse a recipe that they could not share, before any work is done.

        Raises:
            AmalgamError: it is one.
        """

    def distil(
        self,
        student: Student,
        lesson: Lesson,
        settings: TrainingSettings,
        folder: Path,
        advance: Advance,
        *,
        resume: bool = False,
    ) -> History:
        """The same as :func:`amalgam_edge.building.stages.distil`, by all of them.

        Raises:
            AmalgamError: one of the processes failed.
        """
        stages.prepare(student, lesson, settings, folder, resume=resume)
        write_job(folder / _JOB, student, lesson)
        self._fit(folder, lesson.recipe, advance, resume=resume)
        return take_result(folder / _JOB, student)

    @abstractmethod
    def _fit(self, folder: Path, recipe: Recipe, advance: Advance, *, resume: bool) -> None:
        """Do the job in a folder."""


class Launched(Company):
    """Processes on this machine that ``torchrun`` starts for each fit; they are gone after it.

    Args:
        n_processes: how many.
    """

    def __init__(self, n_processes: int) -> None:
        self._n = n_processes

    def check(self, recipe: Recipe) -> None:
        """Refuse a recipe that they could not share."""
        check_shares(recipe, self._n, self._n)

    def _fit(self, folder: Path, recipe: Recipe, advance: Advance, *, resume: bool) -> None:
        threads = threads_of_each(recipe.threads or torch.get_num_threads(), self._n)
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "localhost"),
            *("--nproc-per-node", str(self._n), "-m", "amalgam_edge.cli.training", "--job", str(folder / _JOB)),
            *(["--resume"] if resume else []),
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        with (
            (folder / LOG).open("wb") as log,
            subprocess.Popen(  # noqa: S603  (our own module)
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env=environment, text=True
            ) as process,
        ):
            assert process.stdout is not None  # noqa: S101  (it is a pipe)
            try:
                for line in process.stdout:
                    if line.startswith(ADVANCE):
                        advance(int(line.removeprefix(ADVANCE)))
            except BaseException:
                process.terminate()  # it ends the others
                raise
        if process.returncode:
            raise AmalgamError(self._told((folder / LOG).read_text("utf-8", errors="replace"), folder / LOG))

    def _told(self, log: str, path: Path) -> str:
        """What a log says of a failure, in one line; of several failures the one that the others followed from."""
        failed = [(int(rank), int(status)) for rank, status in _FAILED.findall(log)]
        killed = [(rank, -status) for rank, status in failed if status < 0 and -status != signal.SIGTERM]
        if not killed and (mistake := _MISTAKE.search(log)):
            return mistake[1]
        who = "one of them failed"
        if killed:
            who = "process {} was ended by signal {}".format(*killed[0])
        elif failed:
            who = "process {} failed with exit status {}".format(*failed[0])
        return f"training on {self._n} processes: {who} (see {path}); {_GO_ON}"


class Joined(Company):
    """This process and the others that ``torchrun`` or ``accelerate launch`` started with it.

    The first one builds, and calls the others to each fit; between fits it is alone, and they wait.
    """

    def __init__(self) -> None:
        self._environment = {name: os.environ.pop(name) for name in _OF_THE_GROUP if name in os.environ}
        self.rank = int(self._environment["RANK"])
        self._size = int(self._environment["WORLD_SIZE"])
        self._size_here = int(self._environment.get("LOCAL_WORLD_SIZE", self._size))
        os.environ.update(self._environment)
        self._store = next(rendezvous("env://", timeout=_PATIENCE))[0]
        self._leave()
        self._n_fits = 0
        if self.rank == 0 and os.environ.get("OMP_NUM_THREADS") == "1":  # torchrun's, for processes that share cores
            torch.set_num_threads(os.cpu_count() or 1)

    @staticmethod
    def is_called() -> bool:
        """Whether this process was started as one of several."""
        return int(os.environ.get("WORLD_SIZE", "1")) > 1

    def check(self, recipe: Recipe) -> None:
        """Refuse a recipe that they could not share."""
        check_shares(recipe, self._size, self._size_here)

    def follow(self) -> None:
        """Take part in each fit that the first process calls to, until it lets the others go."""
        while (called := self._wait()) is not None:
            self._run(Path(called["folder"]), lambda count: None, resume=called["resume"])

    def dismiss(self) -> None:
        """Let the others go."""
        self._call(None)

    def _fit(self, folder: Path, recipe: Recipe, advance: Advance, *, resume: bool) -> None:
        self._call({"folder": str(folder.absolute()), "resume": resume})
        self._run(folder, advance, resume=resume)

    def _call(self, to: dict[str, object] | None) -> None:
        self._store.set(f"fit-{self._n_fits}", json.dumps(to))

    def _wait(self) -> dict[str, Any] | None:
        key = f"fit-{self._n_fits}"
        while True:
            try:
                self._store.wait([key], _PATIENCE)
            except dist.DistStoreError:  # teachers are still scoring
                continue
            called: dict[str, Any] | None = json.loads(self._store.get(key))
            return called

    def _run(self, folder: Path, advance: Advance, *, resume: bool) -> None:
        with self._together(recipe_of(folder / _JOB)):
            run_job(folder / _JOB, folder, advance, resume=resume)

    @contextmanager
    def _together(self, recipe: Recipe) -> Iterator[None]:
        os.environ.update(self._environment)
        threads = torch.get_num_threads()
        store = PrefixStore(f"group-{self._n_fits}", self._store)
        self._n_fits += 1
        try:
            with process_group(recipe, store, self.rank, self._size):
                torch.set_num_threads(threads_of_each(recipe.threads or os.cpu_count() or 1, self._size_here))
                yield
        finally:
            torch.set_num_threads(threads)
            self._leave()

    def _leave(self) -> None:
        """Hide the group from libraries, which else would wait for the others in every fit."""
        for name in _OF_THE_GROUP:
            os.environ.pop(name, None)


def run_launched(job: Path, *, resume: bool) -> None:
    """What each process of a launched fit does.

    Raises:
        AmalgamError: a mistake in the recipe, or another process ended.
    """
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    with process_group(recipe_of(job), None, rank, size):
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        run_job(job, job.parent, _say_advance, resume=resume)


def _say_advance(count: int) -> None:
    sys.stdout.write(f"{ADVANCE}{count}\n")
    sys.stdout.flush()


@contextmanager
def process_group(recipe: Recipe, store: Store | None, rank: int, size: int) -> Iterator[None]:
    """A group of processes while entered: by NCCL where the recipe's device is a GPU, by gloo elsewhere.

    Args:
        recipe: of the build.
        store: by which they find each other; None for the one that the environment names.
        rank: which of them this is.
        size: how many they are.

    Raises:
        AmalgamError: another process ended.
    """
    on_cuda = recipe.device != "cpu" and torch.cuda.is_available()
    if on_cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # else accelerate chooses
    dist.init_process_group("nccl" if on_cuda else "gloo", store=store, rank=rank, world_size=size)
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error).lower():
            raise
        raise AmalgamError(f"training on {size} processes: another process ended; {_GO_ON}") from error
    finally:
        dist.destroy_process_group()


def check_shares(recipe: Recipe, size: int, size_here: int) -> None:
    """Refuse a recipe whose training some processes cannot share.

    Args:
        recipe: of the build.
        size: how many processes there are.
        size_here: how many of them are on this machine.

    Raises:
        AmalgamError: its batches cannot be shared evenly, or there is not a GPU for each process.
    """
    if recipe.batch_size % size:
        nearest = max(1, round(recipe.batch_size / size)) * size
        raise AmalgamError(
            f"--batch-size {recipe.batch_size}: {size} processes cannot share it evenly; use {nearest}, or other "
            "processes"
        )
    if resolve_device(recipe.device).type != "cuda":
        return
    if ":" in recipe.device:
        raise AmalgamError(f"--device {recipe.device}: {size} processes take a GPU each; use --device cuda")
    if size_here > torch.cuda.device_count():
        raise AmalgamError(
            f"{size_here} processes but {torch.cuda.device_count()} GPU(s) here; start one a GPU, or use --device cpu"
        )


def threads_of_each(threads: int, size: int) -> int:
    """Threads of each of ``size`` processes that share ``threads`` evenly, at least one."""
    return max(1, threads // size)
