"""A Hugging Face hub on loopback: enough of its HTTP API to list a repository and to fetch files, whole or in part.

`break_after` cuts the first transfer of each weight file after so many bytes; `damage` names files of which a byte is
flipped on the way. Weights have the SHA-256 of large files, all others git's SHA-1 of a blob.
"""

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, name: str, folder: Path, break_after: int | None = None, damage: tuple[str, ...] = ()) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.name, self.folder, self.break_after, self.damage = name, folder, break_after, damage
        self.requests: list[tuple[str, str, str | None]] = []  # method, path, Range

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub  # type: ignore[assignment]
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self, body: bool) -> None:
        path = self.path.split("?")[0]
        self.server.requests.append((self.command, path, self.headers.get("Range")))
        if path.startswith(f"/api/models/{self.server.name}"):
            return self._listing(path)
        prefix = f"/{self.server.name}/resolve/"
        if path.startswith(prefix):
            file = self.server.folder / path.removeprefix(prefix).split("/", 1)[1]
            if file.is_file():
                return self._file(file, body)
        return self._send(404, b'{"error": "not found"}', {"X-Error-Code": "RepoNotFound"})

    def _listing(self, path: str) -> None:
        files = sorted(p for p in self.server.folder.rglob("*") if p.is_file())
        names = {p: p.relative_to(self.server.folder).as_posix() for p in files}
        large = {p: {"oid": _etag(p), "sha256": _etag(p), "size": p.stat().st_size, "pointerSize": 134} for p in files}
        is_large = [p for p in files if p.suffix == ".safetensors"]
        if "/tree/" in path:
            entries = [
                {"type": "file", "path": names[p], "size": p.stat().st_size, "oid": _git_hash(p)}
                | ({"lfs": large[p]} if p in is_large else {})
                for p in files
            ]
            return self._send(200, json.dumps(entries).encode(), {})
        siblings = [
            {"rfilename": names[p], "size": p.stat().st_size, "blobId": _git_hash(p)}
            | ({"lfs": large[p]} if p in is_large else {})
            for p in files
        ]
        info = {"id": self.server.name, "sha": COMMIT, "siblings": siblings}
        return self._send(200, json.dumps(info).encode(), {})

    def _file(self, file: Path, body: bool) -> None:
        data = file.read_bytes()
        large = file.suffix == ".safetensors"
        headers = {"ETag": f'"{_etag(file)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if file.name in self.server.damage:
            data = data[:-1] + bytes([data[-1] ^ 1])
        first = 0
        if wanted := self.headers.get("Range"):
            first = int(wanted.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
        status = 206 if wanted else 200
        cut = None
        if body and large and self.server.break_after is not None:
            cut, self.server.break_after = self.server.break_after, None
        self._send(status, data[first:], headers, body, cut)

    def _send(
        self, status: int, data: bytes, headers: dict[str, str], body: bool = True, cut: int | None = None
    ) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(data[:cut])
        if cut is not None:
            self.wfile.flush()
            self.connection.close()
            self.close_connection = True


def _etag(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.suffix == ".safetensors" else _git_hash(file)


def _git_hash(file: Path) -> str:
    data = file.read_bytes()
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()


@contextmanager
def serving(name: str, folder: Path, **how):
    hub = Hub(name, folder, **how)
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
