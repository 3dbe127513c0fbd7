"""Scoring on a Ray cluster of several nodes on loopback, and what befalls clusters."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter as Counting
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest

ray = pytest.importorskip("ray", reason="needs amalgam-edge[distributed]")

from ray.cluster_utils import Cluster as RayCluster  # noqa: E402

from amalgam_edge.corpus import read_corpus  # noqa: E402
from amalgam_edge.errors import AmalgamError  # noqa: E402
from amalgam_edge.inference.torch_runner import TorchRunner  # noqa: E402
from amalgam_edge.models.teacher import load_teachers  # noqa: E402
from amalgam_edge.scoring.adaptive_passes import balanced_over  # noqa: E402
from amalgam_edge.scoring.ray.cluster import Cluster, score_on_ray  # noqa: E402
from amalgam_edge.scoring.score import (  # noqa: E402
    ReadyTeachers,
    ScoringSettings,
    open_runners,
    score_corpus,
    score_key,
)
from amalgam_edge.scoring.scores import ARRAYS  # noqa: E402
from amalgam_edge.scoring.store import ScoreStore  # noqa: E402

pytestmark = pytest.mark.distributed
SETTINGS = ScoringSettings(passes=3, batch_tokens=200)
POISON = "☠"
SHARD = 4

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import this file


@dataclass
class Trouble:
    """What befalls a teacher on a worker. Who ran where, and how many batches, is kept in ``folder``.

    The first ones wait until there are ``together`` nodes: starting a worker may take longer than all the work.
    """

    folder: Path
    sleep: float = 0.0
    slow_node: str | None = None
    together: int = 1

    def befall(self, text_ids, tokenizer):
        node = ray.get_runtime_context().get_node_id()
        with (self.folder / f"ran-{node}-{os.getpid()}").open("ab") as marks:
            marks.write(b".")
        if any(POISON in text for text in tokenizer.batch_decode(text_ids)):
            os.kill(os.getpid(), signal.SIGKILL)
        until = time.monotonic() + 60
        while len(self.nodes()) < self.together and time.monotonic() < until:
            time.sleep(0.05)
        if self.slow_node in (None, node):
            time.sleep(self.sleep)

    def ran(self):
        """How many batches by node and process."""
        found = [(path.name.split("-")[1:], path.stat().st_size) for path in self.folder.glob("ran-*")]
        return {(node, int(pid)): size for (node, pid), size in found}

    def nodes(self):
        return {node for node, _ in self.ran()}


class TroubledRunner:
    """A runner to whom things happen."""

    def __init__(self, inner, tokenizer, trouble):
        self._inner, self._tokenizer, self._trouble = inner, tokenizer, trouble
        self.n_classes = inner.n_classes

    def run(self, input_ids, attention_mask, passes):
        self._trouble.befall(input_ids, self._tokenizer)
        return self._inner.run(input_ids, attention_mask, passes)


def on_torch(teacher):
    options = {"seed": SETTINGS.seed, "passes": balanced_over(SETTINGS), "masks": SETTINGS.masks, "device": "cpu"}
    return TorchRunner(teacher.model, teacher.sites, **options)


def open_tiny(specs, trouble=None):
    import torch

    torch.set_num_threads(1)
    teachers = load_teachers(specs, max_length=32)

    def open_runner(teacher):
        runner = on_torch(teacher)
        return TroubledRunner(runner, teacher.tokenizer, trouble) if trouble else runner

    runners = open_runners(teachers, open_runner, ["a text", "another one"])
    return ReadyTeachers(teachers, runners, SETTINGS, "torch on cpu")


@pytest.fixture(scope="module")
def specs(tmp_path_factory, make_classifier):
    folder = tmp_path_factory.mktemp("teachers")
    make_classifier(folder / "a", ["games", "science", "net"], seed=1)
    make_classifier(folder / "b", ["text", "net"], seed=2, architecture="distilbert")
    return [f"{name}={folder / name}" for name in "ab"]


@pytest.fixture(scope="module")
def s3_port():
    """Where S3 is, told to all that follows: nodes have the environment that they are started in."""
    with socket.socket() as probe, pytest.MonkeyPatch.context() as patch:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        probe.close()
        yield port


@pytest.fixture
def s3(s3_port):
    for package in ("moto", "s3fs"):
        pytest.importorskip(package, reason=f"needs {package}, of the group dev")
    server = FlakyS3(s3_port)
    yield server
    server.close()


@pytest.fixture(scope="module")
def cluster(s3_port):
    """Two nodes of one core each, as two machines would be."""
    nodes = RayCluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes.add_node(num_cpus=1)
    ray.init(address=nodes.address, log_to_driver=False)
    yield nodes
    ray.shutdown()
    nodes.shutdown()


def corpus_of(tmp_path, texts):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(texts), "utf-8")
    return read_corpus(str(path))


def texts(n):
    words = ["night", "sky", "chess", "music", "map", "sort", "copy", "draw", "file", "server", "mail", "font"]
    return [f"{' '.join(words[(k * j) % len(words)] for j in range(1, 2 + k % 9))} {k}" for k in range(n)]


def stores_of(tmp_path, specs, corpus, name="scores"):
    teachers = load_teachers(specs, max_length=32)
    keys = [score_key(teacher, teachers, corpus, SETTINGS) for teacher in teachers]
    return [ScoreStore(tmp_path / name / key.teacher, key, shard_size=SHARD) for key in keys]


def local(tmp_path, specs, corpus):
    """What the local engine comes to, each teacher's."""
    teachers = load_teachers(specs, max_length=32)
    stores = stores_of(tmp_path, specs, corpus, "local")
    score_corpus(teachers, stores, corpus, SETTINGS, on_torch, lambda count: None)
    return [store.read() for store in stores]


def assert_rows_equal(stores, expected, rows=slice(None)):
    for store, other in zip(stores, expected, strict=True):
        found = store.read()
        for name in ARRAYS:
            np.testing.assert_array_equal(getattr(found, name)[rows], getattr(other, name)[rows], err_msg=name)


class Counter:
    def __init__(self):
        self.n = 0
        self.moved = threading.Event()

    def __call__(self, count):
        self.n += count
        if count:
            self.moved.set()


def test_it_comes_to_what_the_local_engine_comes_to_bit_for_bit(tmp_path, specs, cluster):
    corpus = corpus_of(tmp_path, texts(30))
    stores, advance = stores_of(tmp_path, specs, corpus), Counter()
    trouble = Trouble(tmp_path, together=2)
    score_on_ray(partial(open_tiny, specs, trouble), stores, corpus, Cluster(), advance)
    assert advance.n == 2 * 30
    assert len(trouble.nodes()) == 2
    assert_rows_equal(stores, local(tmp_path, specs, corpus))
    assert {path.name for path in (tmp_path / "scores").iterdir()} == {"a", "b"}
    lineage = stores[0].read_shard(0).lineage
    assert (lineage["engine"], lineage["backend"]) == ("ray", "torch on cpu")
    assert not any("usage" in thread.name for thread in threading.enumerate())  # nobody is told of it


def test_what_the_local_engine_began_it_ends_and_scores_nothing_twice(tmp_path, specs, cluster):
    corpus = corpus_of(tmp_path, texts(30))
    expected = local(tmp_path, specs, corpus)
    stores = stores_of(tmp_path, specs, corpus, "local")
    for store in stores:
        for shard in (1, 3, 4):
            store.path(shard).unlink()
    kept = {path: path.stat().st_mtime_ns for store in stores for path in store.folder.glob("shard-*")}
    score_on_ray(partial(open_tiny, specs), stores, corpus, Cluster(), lambda count: None)
    assert_rows_equal(stores, expected)
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())


def test_a_text_that_kills_its_process_is_recorded_and_the_rest_goes_on(tmp_path, specs, cluster):
    clean = texts(22)
    poisoned = [*clean[:9], f"a {POISON} text", *clean[10:]]
    corpus = corpus_of(tmp_path, poisoned)
    expected = local(tmp_path, specs, corpus)
    stores = stores_of(tmp_path, specs, corpus)
    score_on_ray(partial(open_tiny, specs, Trouble(tmp_path)), stores, corpus, Cluster(), lambda count: None)
    rows = np.arange(22) != 9
    for store, other in zip(stores, expected, strict=True):
        found = store.read()
        for name in ARRAYS:  # texts of its shard run in other batches
            np.testing.assert_allclose(getattr(found, name)[rows], getattr(other, name)[rows], atol=1e-5)
        assert found.passes[9] == 0
        assert np.isnan(found.logits[9]).all()
        assert [failure["text"] for failure in store.failures()] == [9]
    assert not (tmp_path / "scores" / ".attempts").exists()


def killed_meanwhile(score, kill, advance):
    """Score in this thread, and call ``kill`` once something has been scored."""

    def wait():
        assert advance.moved.wait(120)
        kill()

    thread = threading.Thread(target=wait)
    thread.start()
    score()
    thread.join()


def test_a_worker_that_is_killed_is_replaced(tmp_path, specs, cluster):
    corpus = corpus_of(tmp_path, texts(60))
    stores, advance, trouble = stores_of(tmp_path, specs, corpus), Counter(), Trouble(tmp_path, sleep=0.05, together=2)
    killed = []

    def kill():
        killed.append(next(pid for _, pid in trouble.ran()))
        os.kill(killed[0], signal.SIGKILL)

    score = partial(score_on_ray, partial(open_tiny, specs, trouble), stores, corpus, Cluster(), advance)
    killed_meanwhile(score, kill, advance)
    assert advance.n == 2 * 60
    pids = {pid for _, pid in trouble.ran()}
    assert len(trouble.nodes()) == 2
    assert len(pids) == 3
    assert {*killed} < pids
    assert_rows_equal(stores, local(tmp_path, specs, corpus))
    assert not any(store.failures() for store in stores)


def drive(folder, specs, address):
    """A driver of its own, which takes its time."""
    ray.init(address=address, log_to_driver=False)
    corpus = read_corpus(str(Path(folder, "texts.txt")))
    trouble = Trouble(Path(folder), sleep=0.3)
    stores = stores_of(Path(folder), specs, corpus)
    score_on_ray(partial(open_tiny, specs, trouble), stores, corpus, Cluster(), lambda count: None)


def test_a_driver_that_is_killed_goes_on_where_it_was(tmp_path, specs, cluster):
    corpus = corpus_of(tmp_path, texts(40))
    stores = stores_of(tmp_path, specs, corpus)
    code = (
        "import sys; from tests.distributed import test_ray_scoring as driver; "
        "driver.drive(sys.argv[1], sys.argv[3:], sys.argv[2])"
    )
    repository = Path(__file__).parents[2]
    driver = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), cluster.address, *specs], cwd=repository)
    until = time.monotonic() + 400  # starting a driver takes long on a busy machine
    while len([*stores[-1].folder.glob("shard-*")]) < 2:
        assert time.monotonic() < until and driver.poll() is None
        time.sleep(0.05)
    driver.kill()
    driver.wait()
    kept = {path: path.stat().st_mtime_ns for path in stores[-1].folder.glob("shard-*")}
    assert 0 < len(kept) < 10
    score_on_ray(partial(open_tiny, specs), stores, corpus, Cluster(), lambda count: None)
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
    assert_rows_equal(stores, local(tmp_path, specs, corpus))


def test_a_slow_node_does_less_and_holds_nobody(tmp_path, specs, cluster):
    slow, fast = (node["NodeID"] for node in ray.nodes() if node["Alive"])
    corpus = corpus_of(tmp_path, texts(120))
    stores = stores_of(tmp_path, specs, corpus)
    trouble = Trouble(tmp_path, sleep=0.4, slow_node=slow, together=2)
    score_on_ray(partial(open_tiny, specs, trouble), stores, corpus, Cluster(), lambda count: None)
    assert_rows_equal(stores, local(tmp_path, specs, corpus))
    batches = {node: size for (node, _), size in trouble.ran().items()}
    assert 0 < batches[slow] < batches[fast] / 2


class FlakyS3:
    """S3's own interface on loopback, where the first two attempts at each object fail."""

    def __init__(self, port):
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        self._app = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()
        self.put = Counting()
        self._server = make_server("127.0.0.1", port, self, threaded=True)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def __call__(self, environ, start_response):
        path = environ["PATH_INFO"]
        if environ["REQUEST_METHOD"] == "PUT" and path.endswith(".parquet"):
            with self._lock:
                self.put[path] += 1
                if self.put[path] <= 2:
                    start_response("503 Slow Down", [("Content-Length", "0")])
                    return []
        return self._app(environ, start_response)

    def close(self):
        self._server.shutdown()
        self._thread.join()


def test_an_object_store_that_fails_twice_is_written_in_the_end(tmp_path, specs, cluster, s3):
    import s3fs

    s3fs.S3FileSystem().mkdir("bucket")
    corpus = corpus_of(tmp_path, texts(9))
    stores = [
        ScoreStore(f"s3://bucket/scores/{store.key.teacher}", store.key, shard_size=SHARD)
        for store in stores_of(tmp_path, specs, corpus)
    ]
    score_on_ray(partial(open_tiny, specs), stores, corpus, Cluster(), lambda count: None)
    assert_rows_equal(stores, local(tmp_path, specs, corpus))
    shards = [path for path in s3.put if "shard-" in path]
    assert len(shards) == 2 * 3
    assert all(s3.put[path] == 3 for path in shards)


def test_what_fails_for_another_reason_than_a_text_ends_it_and_keeps_what_was_scored(tmp_path, specs, cluster):
    corpus = corpus_of(tmp_path, texts(9))
    stores = stores_of(tmp_path, specs, corpus)
    with pytest.raises(AmalgamError, match=r"no-such-teacher.*--resume"):
        score_on_ray(partial(open_tiny, ["a=no-such-teacher"]), stores, corpus, Cluster(), lambda count: None)


def test_workers_take_a_gpu_each_where_the_cluster_has_any(tmp_path, specs, cluster):
    """A pretended one: what computes is a CPU all the same."""
    node = cluster.add_node(num_cpus=0, num_gpus=1)
    try:
        corpus, trouble = corpus_of(tmp_path, texts(9)), Trouble(tmp_path)
        stores = stores_of(tmp_path, specs, corpus)
        score_on_ray(partial(open_tiny, specs, trouble), stores, corpus, Cluster(), lambda count: None)
        assert_rows_equal(stores, local(tmp_path, specs, corpus))
        assert trouble.nodes() == {next(own["NodeID"] for own in ray.nodes() if own["Resources"].get("GPU"))}
    finally:
        cluster.remove_node(node)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense"])
def test_where_no_cluster_answers_it_says_so_and_begins_nothing(tmp_path, specs, address):
    """In a process of its own: this one has a cluster."""
    corpus_of(tmp_path, texts(3))
    command = [sys.executable, "-m", "amalgam_edge.cli", "score", "--engine", "ray", "--address", address]
    command += ["--teacher", specs[0], "--corpus", tmp_path / "texts.txt", "--output", tmp_path / "scores"]
    result = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 2
    assert f"--address {address}: no Ray cluster answers (" in result.stderr.splitlines()[-1]
    assert not (tmp_path / "scores").exists()


def test_more_threads_than_a_node_has_are_refused(tmp_path, specs, cluster):
    corpus = corpus_of(tmp_path, texts(9))
    stores = stores_of(tmp_path, specs, corpus)
    with pytest.raises(AmalgamError, match=r"--threads 99.*2 cores"):
        score_on_ray(partial(open_tiny, specs), stores, corpus, Cluster(threads=99), lambda count: None)


def test_a_node_that_is_killed_loses_nothing(tmp_path, specs, cluster):
    node = cluster.add_node(num_cpus=1)
    corpus = corpus_of(tmp_path, texts(60))
    stores, advance, trouble = stores_of(tmp_path, specs, corpus), Counter(), Trouble(tmp_path, sleep=0.05, together=3)
    kill = partial(cluster.remove_node, node, allow_graceful=False)
    score = partial(score_on_ray, partial(open_tiny, specs, trouble), stores, corpus, Cluster(), advance)
    killed_meanwhile(score, kill, advance)
    assert len(trouble.nodes()) == 3
    assert_rows_equal(stores, local(tmp_path, specs, corpus))
