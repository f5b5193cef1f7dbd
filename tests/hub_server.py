"""A server on loopback that answers as the Hugging Face hub does, for one repository, or fails as it is told."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34
REPOSITORY = "owner/tiny"


class HubServer(ThreadingHTTPServer):
    """Serves the files of a directory as a repository.

    Attributes:
        faults: path of a file, or "api" -> what goes wrong: a status, "break", "html", "short" or "bytes".
        requests: the method and path of each request, and its token.
    """

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.faults: dict[str, int | str] = {}
        self.requests: list[tuple[str, str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def fetched(self) -> list[str]:
        """The files that were sent, without their directory on the hub."""
        marker = f"/{REPOSITORY}/resolve/{COMMIT}/"
        return sorted(path.removeprefix(marker) for verb, path, _ in self.requests if verb == "GET" and marker in path)

    def content(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def etag(self, name: str) -> str:
        content = self.content(name)
        if name.endswith((".safetensors", ".bin", ".msgpack")):
            return hashlib.sha256(content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append((self.command, path, self.headers.get("authorization")))
        api, files = f"/api/models/{REPOSITORY}", f"/{REPOSITORY}/resolve/{COMMIT}/"
        if path.startswith(files) and (self.server.root / path.removeprefix(files)).is_file():
            self._send_file(path.removeprefix(files), with_body)
        elif not path.startswith("/api/"):
            self._send(404, b"Entry not found", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        elif isinstance(fault := self.server.faults.get("api"), int):
            self._send(fault, b"{}", {"Retry-After": "0"})
        elif fault == "html":
            self._send(200, b"<html>maintenance</html>", {})
        elif not path.startswith(api):
            self._send(404, b'{"error":"Repository not found"}', {"X-Error-Code": "RepoNotFound"})
        elif path in (api, f"{api}/revision/main", f"{api}/revision/v2", f"{api}/revision/{COMMIT}"):
            siblings = [{"rfilename": name} for name in self._names()]
            self._send_json({"id": REPOSITORY, "sha": COMMIT, "siblings": siblings, "tags": [], "private": False})
        elif path in (f"{api}/tree/main", f"{api}/tree/{COMMIT}"):
            self._send_json([self._tree_entry(name) for name in self._names()])
        else:
            self._send(404, b'{"error":"Revision not found"}', {"X-Error-Code": "RevisionNotFound"})

    def _names(self) -> list[str]:
        root = self.server.root
        return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())

    def _tree_entry(self, name: str) -> dict[str, Any]:
        size, etag = len(self.server.content(name)), self.server.etag(name)
        entry: dict[str, Any] = {"type": "file", "path": name, "size": size, "oid": etag[:40]}
        return entry | ({"lfs": {"oid": etag, "size": size, "pointerSize": 134}} if len(etag) == 64 else {})

    def _send_file(self, name: str, with_body: bool) -> None:
        content, fault = self.server.content(name), self.server.faults.get(name)
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{self.server.etag(name)}"'}
        if isinstance(fault, int):
            self._send(fault, b"", {"Retry-After": "0"})
        elif fault == "html":  # as from a proxy, which knows nothing of the hub's headers
            self._send(200, b"<html>sign in</html>" if with_body else b"", {})
        elif fault == "bytes":
            self._send(200, content[:-1] + bytes([content[-1] ^ 1]) if with_body else content, headers, with_body)
        elif fault in ("break", "short") and with_body:
            size = len(content) if fault == "break" else len(content) // 2
            self._send(200, content[: len(content) // 2], {**headers, "Content-Length": str(size)})
            self.close_connection = True
        else:
            self._send(200, content, headers, with_body)

    def _send_json(self, data: Any) -> None:
        self._send(200, json.dumps(data).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str], with_body: bool = True) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if with_body and self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def serve(root: Path) -> Iterator[HubServer]:
    """Runs a server in a thread."""
    server = HubServer(root)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
