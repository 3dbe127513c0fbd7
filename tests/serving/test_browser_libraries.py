"""The page's JavaScript libraries: where they are looked for, and what is refused."""

import base64
import hashlib
import io
import tarfile

import pytest

from amalgam_edge.browser import libraries
from amalgam_edge.errors import AmalgamError


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache folder."""
    monkeypatch.delenv("AMALGAM_WEB_LIBRARIES", raising=False)
    monkeypatch.delenv("NPM_CONFIG_REGISTRY", raising=False)
    monkeypatch.setattr(libraries, "user_cache_path", lambda name: tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("registry", "message"),
    [("http://127.0.0.1:9", "cannot be fetched"), ("file:///etc", "no address of an npm registry")],
)
def test_a_registry_that_cannot_be_used_is_named(cache, monkeypatch, registry, message):
    monkeypatch.setenv("npm_config_registry", registry)
    with pytest.raises(AmalgamError, match=message):
        libraries.get_libraries()
    assert not [*cache.glob("browser/*")]


def test_an_archive_with_another_digest_is_refused(cache, monkeypatch):
    monkeypatch.setenv("npm_config_registry", "http://localhost")
    monkeypatch.setattr(libraries, "urlopen", lambda url, timeout: io.BytesIO(b"another archive"))
    with pytest.raises(AmalgamError, match="not the archive that was tested"):
        libraries.get_libraries()
    assert not [*cache.glob("browser/*")]


def test_a_named_folder_must_hold_all_libraries(monkeypatch, tmp_path):
    monkeypatch.setenv("AMALGAM_WEB_LIBRARIES", str(tmp_path))
    with pytest.raises(AmalgamError, match=r"lacks ort\.wasm\.min\.mjs"):
        libraries.get_libraries()
    assert libraries.find_libraries() is None
    for name in libraries.LIBRARY_FILES:
        (tmp_path / name).touch()
    assert libraries.get_libraries() == libraries.find_libraries() == tmp_path


def archive_of(*names):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.size = len(name)
            tar.addfile(entry, io.BytesIO(name.encode()))
    return content.getvalue()


def test_only_the_files_that_the_page_needs_are_unpacked_and_downloaded_once(cache, monkeypatch):
    archive = archive_of("package/dist/a.mjs", "package/package.json", "package/../../evil")
    sha512 = base64.b64encode(hashlib.sha512(archive).digest()).decode()
    package = libraries.NpmPackage("@scope/name", "1.2.3", sha512, ("dist/a.mjs",))
    monkeypatch.setattr(libraries, "PACKAGES", (package,))
    monkeypatch.setattr(libraries, "LIBRARY_FILES", ("a.mjs",))
    monkeypatch.setenv("npm_config_registry", "https://registry.example/")
    urls, messages = [], []
    monkeypatch.setattr(libraries, "urlopen", lambda url, timeout: urls.append(url) or io.BytesIO(archive))
    assert libraries.find_libraries() is None
    folder = libraries.get_libraries(messages.append)
    assert libraries.get_libraries(messages.append) == folder
    assert urls == ["https://registry.example/@scope/name/-/name-1.2.3.tgz"]
    assert messages == ["fetching @scope/name 1.2.3"]
    assert {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*")} == {
        "a.mjs": "package/dist/a.mjs"
    }


def test_the_registry_that_messages_and_docs_name_comes_first(cache, monkeypatch):
    """npm itself reads either spelling."""
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "https://other.example")
    assert libraries._registry() == "https://other.example"
    monkeypatch.setenv("npm_config_registry", "https://named.example")
    assert libraries._registry() == "https://named.example"
