"""A Hub of its own on this machine: one commit after another, kept in memory."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

COMMIT = "c" * 40


class Hub:
    """What it was told, and what it holds.

    Attributes:
        files: repository → path → content.
        private: repository → whether it is.
        tokens: who asked.
        commits: the operations of each commit.
        main: the commit of the main branches.
        snapshots: repository and tag or commit → that commit, and its files.
        downloads: the files that were sent, and their bytes.
        requests: how many requests there were.
        refusal: status and headers of every answer, while it is set.
    """

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.tokens: set[str | None] = set()
        self.commits: list[list[dict]] = []
        self.snapshots: dict[tuple[str, str], tuple[str, dict[str, bytes]]] = {}
        self.downloads: list[tuple[str, int]] = []
        self.requests = 0
        self.refusal: tuple[int, dict[str, str]] | None = None
        self.main = COMMIT
        self.address = ""

    def tag(self, repo: str, name: str) -> str:
        """Keep what a repository holds now under a name; the commit that it is."""
        commit = hashlib.sha1(name.encode()).hexdigest()
        self.snapshots[repo, name] = self.snapshots[repo, commit] = commit, dict(self.files[repo])
        return commit

    def move_main(self, repo: str, files: dict[str, bytes]) -> None:
        """Let the main branch hold other files, at another commit; the one before stays."""
        self.snapshots[repo, self.main] = self.main, self.files[repo]
        self.main, self.files[repo] = hashlib.sha1(self.main.encode()).hexdigest(), files

    def file(self, repo: str, revision: str, name: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and content of a file, as the Hub answers."""
        if self.refusal:
            return *self.refusal, b""
        if repo not in self.files:
            return 401, {"X-Error-Code": "RepoNotFound"}, b""
        current = (self.main, self.files[repo]) if revision in ("main", self.main) else ("", {})
        commit, files = self.snapshots.get((repo, revision), current)
        if not commit:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if name not in files:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b""
        return 200, {"ETag": f'"{hashlib.sha1(files[name]).hexdigest()}"', "X-Repo-Commit": commit}, files[name]

    def create(self, asked: dict) -> tuple[int, object]:
        repo = f"{asked['organization']}/{asked['name']}"
        url = f"{self.address}/{repo}"
        if repo in self.files:
            return 409, {"error": "it exists already", "url": url}
        self.files[repo] = {".gitattributes": b""}
        self.private[repo] = asked.get("visibility") == "private" or bool(asked.get("private"))
        return 200, {"url": url}

    def info(self, repo: str) -> tuple[int, object]:
        if repo not in self.files:
            return 404, {"error": "Repository not found"}
        siblings = [{"rfilename": name} for name in self.files[repo]]
        return 200, {"id": repo, "sha": COMMIT, "private": self.private[repo], "siblings": siblings}

    def tree(self, repo: str) -> tuple[int, object]:
        return 200, [
            {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for name, content in self.files[repo].items()
        ]

    def commit(self, repo: str, body: bytes) -> tuple[int, object]:
        operations = [json.loads(line) for line in body.splitlines()]
        self.commits.append(operations)
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                self.files[repo][value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "deletedFile":
                del self.files[repo][value["path"]]
        return 200, {"commitUrl": f"{self.address}/{repo}/commit/{COMMIT}", "commitOid": COMMIT}


class Server(ThreadingHTTPServer):
    """Answers for a Hub."""

    def __init__(self, hub: Hub) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.hub = hub


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *arguments: object) -> None:
        """Nobody reads it."""

    def answer(self, status: int, content: object) -> None:
        self.reply(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self) -> None:
        self.server.hub.tokens.add(self.headers["Authorization"])
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        path = urlsplit(self.path).path
        repo = "/".join(path.split("/")[3:5])
        if path == "/api/repos/create":
            self.answer(*self.server.hub.create(json.loads(body)))
        elif path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif "/preupload/" in path:
            files = json.loads(body)["files"]
            modes = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]
            self.answer(200, {"files": modes})
        elif "/commit/" in path:
            self.answer(*self.server.hub.commit(repo, body))
        else:
            self.answer(404, {"error": path})

    def do_GET(self) -> None:
        self.server.hub.requests += 1
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/api/models/"):
            repo = "/".join(path.split("/")[3:5])
            self.answer(*(self.server.hub.tree if "/tree/" in path else self.server.hub.info)(repo))
            return
        if "/resolve/" not in path:
            self.answer(404, {"error": path})
            return
        owner, name, _, revision, file = path[1:].split("/", 4)
        self.server.hub.tokens.add(self.headers["Authorization"])
        status, headers, content = self.server.hub.file(f"{owner}/{name}", revision, file)
        if status == 200 and self.command == "GET":
            self.server.hub.downloads.append((file, len(content)))
        self.reply(status, content, headers)

    def do_HEAD(self) -> None:
        self.do_GET()


def files_of(folder: Path) -> dict[str, bytes]:
    """The files of a folder, as a repository holds them."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def let_this_process_ask(hub: Hub, patch: pytest.MonkeyPatch, cache: Path) -> None:
    """Let the Hub's client of this process take ``hub`` for the Hub, with a cache of its own, and not wait."""
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "ENDPOINT", hub.address)
    template = f"{hub.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
    patch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda seconds: None))


@contextmanager
def running() -> Iterator[Hub]:
    """A Hub that answers for as long as it is needed; ``address`` is its endpoint."""
    hub = Hub()
    with Server(hub) as server:
        hub.address = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
