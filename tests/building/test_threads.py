"""Builds, scoring and training compute with no more threads than there are usable cores."""

import subprocess

import pytest
import torch

from amalgam_edge import cores
from amalgam_edge.building import pipeline, scoring
from amalgam_edge.building.processes import LaunchedProcesses
from amalgam_edge.console_progress import resolve_progress
from amalgam_edge.inference import devices
from amalgam_edge.recipe.reading import read_recipe
from amalgam_edge.recipe.sections import TrainingSettings


class ReachedError(Exception):
    pass


def stop(*args, **options):
    raise ReachedError


@pytest.fixture
def any_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("wanted", "usable", "found"), [(2, 1, 1), (1, 8, 1), (2, 2, 2)])
def test_torch_takes_one_thread_per_usable_core_at_most(any_threads, monkeypatch, wanted, usable, found):
    monkeypatch.setattr(devices, "usable_cores", lambda: usable)
    torch.set_num_threads(wanted)
    devices.limit_threads()
    assert torch.get_num_threads() == found


@pytest.mark.parametrize(("module", "run"), [(pipeline, pipeline.build_bundle), (scoring, scoring.score_texts)])
def test_builds_and_scoring_limit_torch_before_they_begin(monkeypatch, tmp_path, module, run):
    monkeypatch.setattr(module, "limit_threads", stop)
    places = {name: str(tmp_path / name) for name in ("corpus", "student", "output")}
    with pytest.raises(ReachedError):
        run(read_recipe(None, {"teachers": [str(tmp_path / "teacher")], **places}), resolve_progress(False))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("threads", "each"), [(None, "2"), (64, "2"), (4, "2"), (3, "1"), (1, "1")])
def test_processes_on_a_machine_share_its_usable_cores(monkeypatch, tmp_path, threads, each):
    monkeypatch.setattr(cores, "usable_cores", lambda: 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda command, env, **rest: started.append(env) or stop())
    with pytest.raises(ReachedError):
        LaunchedProcesses(2)._run(tmp_path, TrainingSettings(threads=threads), stop, resume=False)
    assert started[0]["OMP_NUM_THREADS"] == each
