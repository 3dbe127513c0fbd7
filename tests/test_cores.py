"""The cores that a process may compute on: affinity, PYTHON_CPU_COUNT, and CPU quotas in made-up control groups."""

import ast
import os
from pathlib import Path

import pytest

from amalgam_edge import cores
from amalgam_edge.cores import compute_threads, cpu_group_folders, cpu_quota, usable_cores
from amalgam_edge.errors import AmalgamError

REPOSITORY = Path(__file__).parents[1]
FOLDERS = ("amalgam_edge", "cli", "exporters", "models", "benchmarks", "examples", "docs")


@pytest.fixture
def process(tmp_path):
    """``process(groups, mounts, files)``: a process' folder, beside a file system with these control groups."""

    def make(groups, mounts, files):
        folder = tmp_path / "proc"
        folder.mkdir()
        (folder / "cgroup").write_text("".join(f"{line}\n" for line in groups))
        lines = [
            f"{number} 23 0:{number} {root} {tmp_path}/{point.replace(' ', chr(92) + '040')} rw,nosuid shared:{number} "
            f"- {kind} {kind} rw{options}\n"
            for number, (root, point, kind, options) in enumerate(mounts, 30)
        ]
        (folder / "mountinfo").write_text(f"23 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n{''.join(lines)}")
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(content)
        return folder

    return make


V2 = ("/", "cg", "cgroup2", "")
V1 = ("/", "cg/cpu,cpuacct", "cgroup", ",cpu,cpuacct")


@pytest.mark.parametrize(
    ("groups", "mounts", "files", "quota"),
    [
        # Version 2: seen from inside a container, from outside of it, and where only a group further up has a limit.
        (["0::/"], [V2], {"cg/cpu.max": "150000 100000\n"}, 1.5),
        (["0::/"], [V2], {"cg/cpu.max": "max 100000\n"}, None),
        (["0::/a/b"], [V2], {"cg/a/b/cpu.max": "200000 100000\n"}, 2.0),
        (["0::/a/b"], [V2], {"cg/a/b/cpu.max": "max 100000", "cg/a/cpu.max": "50000 100000"}, 0.5),
        (["0::/a/b"], [V2], {"cg/a/b/cpu.max": "300000 100000", "cg/a/cpu.max": "100000 50000"}, 2.0),
        (["0::/a/b"], [V2], {"cg/a/b/cpu.max": "100000 100000", "cg/a/cpu.max": "400000 100000"}, 1.0),
        (["0::/a/b"], [V2], {"cg/other/cpu.max": "100000 100000", "cpu.max": "10000 100000"}, None),
        # A part of the hierarchy is mounted, which the process is in, or is not.
        (["0::/a/b/c"], [("/a/b", "cg", "cgroup2", "")], {"cg/c/cpu.max": "70000 10000"}, 7.0),
        (["0::/a/bc"], [("/a/b", "cg", "cgroup2", "")], {"cg/cpu.max": "70000 10000", "cg/c/cpu.max": "1 1"}, 7.0),
        (["0::/../x"], [V2], {"cg/cpu.max": "70000 10000", "x/cpu.max": "10000 10000"}, 7.0),
        (["0::/gone"], [V2], {"cg/cpu.max": "20000 10000"}, 2.0),
        # Version 1: the root, a limit of its own, none, and a container that sees the host's paths.
        (["4:cpu,cpuacct:/", "1:name=systemd:/"], [V1], {}, None),
        (
            ["4:cpu,cpuacct:/a"],
            [V1],
            {"cg/cpu,cpuacct/a/cpu.cfs_quota_us": "250000\n", "cg/cpu,cpuacct/a/cpu.cfs_period_us": "100000\n"},
            2.5,
        ),
        (
            ["4:cpuacct,cpu:/a"],
            [V1],
            {"cg/cpu,cpuacct/a/cpu.cfs_quota_us": "-1\n", "cg/cpu,cpuacct/a/cpu.cfs_period_us": "100000\n"},
            None,
        ),
        (
            ["4:cpu,cpuacct:/docker/x", "0::/docker/x"],
            [("/docker/x", "cg/cpu", "cgroup", ",cpu,cpuacct")],
            {"cg/cpu/cpu.cfs_quota_us": "50000\n", "cg/cpu/cpu.cfs_period_us": "50000\n"},
            1.0,
        ),
        # Other hierarchies of version 1 say nothing of CPUs.
        (
            ["4:memory:/a"],
            [("/", "cg/memory", "cgroup", ",memory")],
            {"cg/memory/a/cpu.cfs_quota_us": "1000", "cg/memory/a/cpu.cfs_period_us": "1000"},
            None,
        ),
        # Both versions at once, and a mount point with a space in it.
        (
            ["4:cpu:/a", "0::/a"],
            [("/", "cg v1", "cgroup", ",cpu"), ("/", "cg/unified", "cgroup2", "")],
            {
                "cg v1/a/cpu.cfs_quota_us": "300000",
                "cg v1/a/cpu.cfs_period_us": "100000",
                "cg/unified/a/cpu.max": "400000 100000",
            },
            3.0,
        ),
        # What cannot be understood is no limit.
        (["0::/"], [V2], {"cg/cpu.max": ""}, None),
        (["0::/"], [V2], {"cg/cpu.max": "10000"}, None),
        (["0::/"], [V2], {"cg/cpu.max": "10000 0"}, None),
        (["0::/"], [V2], {"cg/cpu.max": "many 100000"}, None),
        (["nonsense", "", "0::/"], [V2], {"cg/cpu.max": "10000 10000"}, 1.0),
        ([], [V2], {"cg/cpu.max": "10000 10000"}, None),
        (["0::/"], [], {}, None),
    ],
)
def test_the_quota_is_the_smallest_on_the_way_up(process, groups, mounts, files, quota):
    assert cpu_quota(process(groups, mounts, files)) == quota


def test_without_control_groups_there_is_no_quota(tmp_path):
    assert cpu_quota(tmp_path / "nowhere") is None
    assert cpu_group_folders("0::/a", "garbage\n\n - \n1 2 3 - cgroup2\n") == []


def test_folders_go_from_the_group_up_to_the_mount_and_no_further():
    mounts = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
    below = "/sys/fs/cgroup"
    assert [*map(str, cpu_group_folders("0::/a/b", mounts))] == [f"{below}/a/b", f"{below}/a", below]


@pytest.mark.parametrize(
    ("limit", "allowed", "usable"),
    [
        ("max 100000", 8, 8),
        ("150000 100000", 8, 2),  # rounded up
        ("100001 100000", 8, 2),
        ("200000 100000", 8, 2),
        ("1000 100000", 8, 1),  # a hundredth of a core
        ("900000 100000", 8, 8),
        ("300000 100000", 2, 2),
    ],
)
def test_usable_are_the_cores_that_are_allowed_within_the_quota(process, monkeypatch, limit, allowed, usable):
    monkeypatch.setattr(cores, "_allowed_cores", lambda: allowed)
    assert usable_cores(process(["0::/"], [V2], {"cg/cpu.max": limit})) == usable


@pytest.fixture
def older_python(monkeypatch):
    """A Python that has no ``os.process_cpu_count``, on 8 cores, without a quota."""
    monkeypatch.delattr(os, "process_cpu_count", raising=False)
    monkeypatch.delenv("PYTHON_CPU_COUNT", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(cores, "cpu_quota", lambda process: None)


def test_the_cores_are_those_that_the_process_may_be_scheduled_on(older_python, monkeypatch):
    """``taskset`` may allow fewer than the machine has; some systems do not tell, or tell nothing."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 3, 5}, raising=False)
    assert usable_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert usable_cores() == 8
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores() == 1


@pytest.mark.parametrize(("named", "usable"), [("5", 5), ("1", 1), ("0", 3), ("default", 3), ("-2", 3), ("", 3)])
def test_python_cpu_count_is_honoured(older_python, monkeypatch, named, usable):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 3, 5}, raising=False)
    monkeypatch.setenv("PYTHON_CPU_COUNT", named)
    assert usable_cores() == usable


@pytest.mark.parametrize(("counted", "usable"), [(6, 6), (None, 1)])
def test_from_python_3_13_on_python_counts(older_python, monkeypatch, counted, usable):
    monkeypatch.setattr(os, "process_cpu_count", lambda: counted, raising=False)
    assert usable_cores() == usable


def test_there_is_a_thread_for_each_usable_core_at_most(monkeypatch):
    monkeypatch.setattr(cores, "usable_cores", lambda: 4)
    assert [compute_threads(threads) for threads in (None, 1, 3, 4, 5, 64)] == [4, 1, 3, 4, 4, 4]


@pytest.mark.parametrize("threads", [0, -1, -(10**9), 1.5, "2", float("nan"), [1]])
def test_no_threads_are_refused(threads):
    with pytest.raises(AmalgamError, match="threads is a whole number from 1 on"):
        compute_threads(threads)


def called(tree):
    """The names of the functions and methods that are called in a syntax tree."""
    return {ast.unparse(node.func).rpartition(".")[2] for node in ast.walk(tree) if isinstance(node, ast.Call)}


def test_cores_are_counted_in_one_place_and_sessions_are_told_their_threads():
    """Another count would overlook quotas, and ONNX Runtime takes all cores of the machine where it is told nothing."""
    counting = {"cpu_count", "sched_getaffinity", "process_cpu_count"}
    wrong = []
    for folder in FOLDERS:
        for file in (REPOSITORY / folder).rglob("*.py"):
            tree = ast.parse(file.read_text("utf-8"))
            if file.name != "cores.py" and called(tree) & counting:
                wrong.append(f"{file}: counts cores; take usable_cores()")
            functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
            for function in functions if "InferenceSession" in called(tree) else ():
                told = {node.attr for node in ast.walk(function) if isinstance(node, ast.Attribute)}
                if "InferenceSession" in called(function) and "intra_op_num_threads" not in told:
                    wrong.append(f"{file}: {function.name} does not say how many threads a session has")
    assert wrong == []
