"""One of the processes that train a student together: ``torchrun … -m amalgam_edge.building.launched_process JOB``."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import torch

from amalgam_edge.building.process_group import process_group
from amalgam_edge.building.processes import PROGRESS_PREFIX
from amalgam_edge.building.training_job import read_training_settings, run_job
from amalgam_edge.errors import AmalgamError
from amalgam_edge.storage.write_errors import report_write_errors


def run(job: Path, *, resume: bool) -> None:
    """Do a process' part of a training job.

    Raises:
        AmalgamError: Another process ended.
    """
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    with process_group(read_training_settings(job), None, rank, size):
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        run_job(job, job.parent, _report_updates, resume=resume)


def _report_updates(count: int) -> None:
    sys.stdout.write(f"{PROGRESS_PREFIX}{count}\n")
    sys.stdout.flush()


def main() -> None:
    """Read the arguments and run; a mistake is one line on standard error, which the launcher looks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", type=Path, help="folder that the launcher wrote")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    arguments = parser.parse_args()
    try:
        with report_write_errors(arguments.job):
            run(arguments.job, resume=arguments.resume)
    except AmalgamError as error:
        sys.stderr.write(f"Error: {error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
