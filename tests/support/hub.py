"""A Hub of its own on this machine: one commit after another, kept in memory."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

COMMIT = "c" * 40


class Hub:
    """What it was told, and what it holds.

    Attributes:
        files: repository → path → content.
        private: repository → whether it is.
        tokens: who asked.
        commits: the operations of each commit.
    """

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.tokens: set[str | None] = set()
        self.commits: list[list[dict]] = []
        self.address = ""

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
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/api/models/"):
            repo = "/".join(path.split("/")[3:5])
            self.answer(*(self.server.hub.tree if "/tree/" in path else self.server.hub.info)(repo))
            return
        owner, name, _, _, file = path[1:].split("/", 4)
        content = self.server.hub.files[f"{owner}/{name}"][file]
        etag = hashlib.sha1(content).hexdigest()
        self.reply(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})

    def do_HEAD(self) -> None:
        self.do_GET()


@contextmanager
def running() -> Iterator[Hub]:
    """A Hub that answers for as long as it is needed; ``address`` is its endpoint."""
    hub = Hub()
    with Server(hub) as server:
        hub.address = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
