"""Training on several processes: started for each training run, or the members of a group that torchrun started."""

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
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from amalgam_edge.building.data import Student, TrainingData
from amalgam_edge.building.process_group import GO_ON, check_shares, process_group, threads_per_process
from amalgam_edge.building.students import prepare_training
from amalgam_edge.building.training_job import read_training_settings, run_job, take_result, write_job
from amalgam_edge.cores import compute_threads, usable_cores
from amalgam_edge.errors import AmalgamError
from amalgam_edge.progress import Advance
from amalgam_edge.recipe.sections import MethodSettings, TrainingSettings
from amalgam_edge.training.fitting import History

PROGRESS_PREFIX = "advance "  # before the number of updates in what the first process writes to its standard output
LOG = "processes.log"
_JOB = "job"
_GROUP_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_STORE_TIMEOUT = timedelta(minutes=30)
# torchrun's report of a process that failed, and our own error message in its log.
_FAILED_PROCESS = re.compile(r"^\s*rank\s*:\s*(\d+).*\n\s*exitcode\s*:\s*(-?\d+)", re.MULTILINE)
_OUR_ERROR = re.compile(r"^Error: (.+)$", re.MULTILINE)


class ProcessGroup(ABC):
    """Processes that train a student together; each reads its share of every batch."""

    @abstractmethod
    def check(self, settings: TrainingSettings) -> None:
        """Refuse training that the processes cannot share, before any work is done.

        Raises:
            AmalgamError: They cannot share it.
        """

    def train(
        self,
        student: Student,
        data: TrainingData,
        method: MethodSettings,
        settings: TrainingSettings,
        folder: Path,
        advance: Advance,
        *,
        resume: bool = False,
    ) -> History:
        """Train a student as :func:`amalgam_edge.building.students.train` does, by all processes together.

        Raises:
            AmalgamError: One of the processes failed.
        """
        prepare_training(student, data, method, settings, folder, resume=resume)
        write_job(folder / _JOB, student, data, method, settings)
        self._run(folder, settings, advance, resume=resume)
        return take_result(folder / _JOB, student)

    @abstractmethod
    def _run(self, folder: Path, settings: TrainingSettings, advance: Advance, *, resume: bool) -> None:
        """Do the job that was written to a folder."""


class LaunchedProcesses(ProcessGroup):
    """Processes on this machine that ``torchrun`` starts for each training run; they end with it.

    Args:
        n_processes: Number of processes.
    """

    def __init__(self, n_processes: int) -> None:
        self._n = n_processes

    def check(self, settings: TrainingSettings) -> None:
        """Refuse training that the processes cannot share."""
        check_shares(settings, self._n, self._n)

    def _run(self, folder: Path, settings: TrainingSettings, advance: Advance, *, resume: bool) -> None:
        threads = threads_per_process(compute_threads(settings.threads or torch.get_num_threads()), self._n)
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "localhost"),
            *("--nproc-per-node", str(self._n), "-m", "amalgam_edge.building.launched_process", str(folder / _JOB)),
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
                    if line.startswith(PROGRESS_PREFIX):
                        advance(int(line.removeprefix(PROGRESS_PREFIX)))
            except BaseException:
                process.terminate()  # torchrun ends the processes that it started
                raise
        if process.returncode:
            raise AmalgamError(self._explain((folder / LOG).read_text("utf-8", errors="replace"), folder / LOG))

    def _explain(self, log: str, path: Path) -> str:
        """What a log says of a failure, in one line; of several failures the one that caused the others."""
        failed = [(int(rank), int(status)) for rank, status in _FAILED_PROCESS.findall(log)]
        killed = [(rank, -status) for rank, status in failed if status < 0 and -status != signal.SIGTERM]
        if not killed and (error := _OUR_ERROR.search(log)):
            return error[1]
        what = "one of them failed"
        if killed:
            what = "process {} was ended by signal {}".format(*killed[0])
        elif failed:
            what = "process {} failed with exit status {}".format(*failed[0])
        return f"training on {self._n} processes: {what} (see {path}); {GO_ON}"


class JoinedProcesses(ProcessGroup):
    """This process and the others that ``torchrun`` or ``accelerate launch`` started with it.

    The first process builds, and calls the others to each training run. Between runs it works alone and they wait.
    """

    def __init__(self) -> None:
        self._environment = {name: os.environ.pop(name) for name in _GROUP_VARIABLES if name in os.environ}
        self.rank = int(self._environment["RANK"])
        self._size = int(self._environment["WORLD_SIZE"])
        self._size_here = int(self._environment.get("LOCAL_WORLD_SIZE", self._size))
        os.environ.update(self._environment)
        self._store = next(rendezvous("env://", timeout=_STORE_TIMEOUT))[0]
        self._hide_group()
        self._n_runs = 0
        if self.rank == 0 and os.environ.get("OMP_NUM_THREADS") == "1":  # set by torchrun, for processes sharing cores
            torch.set_num_threads(usable_cores())

    @staticmethod
    def are_there() -> bool:
        """Whether this process was started as one of several."""
        return int(os.environ.get("WORLD_SIZE", "1")) > 1

    def check(self, settings: TrainingSettings) -> None:
        """Refuse training that the processes cannot share."""
        check_shares(settings, self._size, self._size_here)

    def follow(self) -> None:
        """Take part in each training run that the first process calls to, until it dismisses the others."""
        while (call := self._wait_for_call()) is not None:
            self._run_together(Path(call["folder"]), lambda count: None, resume=call["resume"])

    def dismiss(self) -> None:
        """Let the other processes end."""
        self._call(None)

    def _run(self, folder: Path, settings: TrainingSettings, advance: Advance, *, resume: bool) -> None:
        self._call({"folder": str(folder.absolute()), "resume": resume})
        self._run_together(folder, advance, resume=resume)

    def _call(self, run: dict[str, object] | None) -> None:
        self._store.set(f"fit-{self._n_runs}", json.dumps(run))

    def _wait_for_call(self) -> dict[str, Any] | None:
        key = f"fit-{self._n_runs}"
        while True:
            try:
                self._store.wait([key], _STORE_TIMEOUT)
            except dist.DistStoreError:  # teachers are still scoring
                continue
            call: dict[str, Any] | None = json.loads(self._store.get(key))
            return call

    def _run_together(self, folder: Path, advance: Advance, *, resume: bool) -> None:
        with self._group(read_training_settings(folder / _JOB)):
            run_job(folder / _JOB, folder, advance, resume=resume)

    @contextmanager
    def _group(self, settings: TrainingSettings) -> Iterator[None]:
        os.environ.update(self._environment)
        threads = torch.get_num_threads()
        store = PrefixStore(f"group-{self._n_runs}", self._store)
        self._n_runs += 1
        try:
            with process_group(settings, store, self.rank, self._size):
                torch.set_num_threads(threads_per_process(compute_threads(settings.threads), self._size_here))
                yield
        finally:
            torch.set_num_threads(threads)
            self._hide_group()

    def _hide_group(self) -> None:
        """Hide the group from libraries, which otherwise wait for the other processes in all they do."""
        for name in _GROUP_VARIABLES:
            os.environ.pop(name, None)
