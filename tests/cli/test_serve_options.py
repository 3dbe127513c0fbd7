"""``amalgam-edge serve``: what it makes of its options, and mistakes in them."""

import pytest

from amalgam_edge.cli.serve import command
from amalgam_edge.errors import AmalgamError
from amalgam_edge.serving import server
from amalgam_edge.serving.admission import AccessControl
from amalgam_edge.serving.limits import Limits
from amalgam_edge.serving.models import LoadOptions
from amalgam_edge.serving.server import ServerSettings


@pytest.fixture
def serve(monkeypatch):
    """Run the command with a server that returns at once; its folders and settings."""
    calls = []
    monkeypatch.setattr(server, "run_server", lambda folders, settings, notify: calls.append((folders, settings)))

    def run(*arguments):
        command.main([*map(str, arguments)], standalone_mode=False)
        return calls.pop()

    return run


def test_the_default_settings(serve):
    folders, settings = serve("runs/student")
    assert folders == {"student": "runs/student"}
    assert settings == ServerSettings(limits=Limits())


def test_every_option_reaches_the_settings(serve, tmp_path):
    keys = tmp_path / "keys.txt"
    keys.write_text("first\n\n  second \n")
    folders, settings = serve(
        *("a=one/", "b.c-d_1=two/", "--host", "0.0.0.0", "--port", "9000", "--api-key-file", keys),
        *("--cors", "https://a", "--cors", "https://b", "--watch", "--max-wait-ms", "1", "--batch-tokens", "2"),
        *("--max-queue", "3", "--max-texts", "4", "--max-characters", "5", "--max-body-mb", "0.5", "--deadline", "7"),
        *("--max-connections", "8", "--max-inflight-mb", "9", "--keep-alive", "10", "--allow-host", "there"),
        *("--precision", "fp32", "--threads", "8", "--no-cascade", "--device", "cuda:1"),
        *("--revision", "v1", "--offline"),
    )
    assert folders == {"a": "one/", "b.c-d_1": "two/"}
    assert settings == ServerSettings(
        host="0.0.0.0",
        port=9000,
        watch=True,
        load_options=LoadOptions(
            precision="fp32",
            threads=8,
            cascade=False,
            device="cuda:1",
            hub={"revision": "v1", "local_files_only": True},
        ),
        limits=Limits(
            body_bytes=500_000,
            texts=4,
            characters=5,
            queue=3,
            seconds=7.0,
            wait_ms=1.0,
            batch_tokens=2,
            connections=8,
            inflight_bytes=9_000_000,
            idle_seconds=10.0,
        ),
        access=AccessControl(
            api_keys=("first", "second"),
            key_file=str(keys),
            allowed_origins=("https://a", "https://b"),
            allowed_hosts=("there",),
        ),
    )


@pytest.mark.parametrize(
    ("bundles", "message"),
    [
        (["a/student", "b/student"], "two bundles are called 'student': give one of them another name, NAME=b/student"),
        (["a b=x/"], "'a b' is no name for a bundle"),
        (["=x/"], "'' is no name for a bundle"),
        (["a/b=x/"], "'a/b' is no name for a bundle"),
    ],
)
def test_names_that_cannot_be_used_are_refused(serve, bundles, message):
    with pytest.raises(AmalgamError) as refused:
        serve(*bundles)
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(("content", "message"), [(b" \n\n", "holds no API key"), (b"\xff\xfe", "cannot be read")])
def test_a_key_file_without_keys_is_refused(serve, tmp_path, content, message):
    (tmp_path / "keys.txt").write_bytes(content)
    with pytest.raises(AmalgamError, match=message):
        serve("student", "--api-key-file", tmp_path / "keys.txt")
    with pytest.raises(AmalgamError, match="cannot be read"):
        serve("student", "--api-key-file", tmp_path / "missing.txt")
