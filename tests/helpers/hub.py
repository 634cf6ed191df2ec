"""A stand-in for the Hugging Face hub on loopback: what fetching uses of its HTTP API, over files in memory."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

PAGE = 3  # entries a page of a listing: small, so that paging happens


class Hub:
    """Repositories `(kind, name) -> {commit: {path: bytes}}`, commits oldest first; what was asked is in `requests`.

    `stall`: path -> bytes after which the answer hangs until `resume` is set. `damage`: paths that arrive with a wrong
    byte. Files that end in .safetensors, .parquet or .pt are in LFS. Requests' tokens
    are in `tokens`.
    """

    def __init__(self, repositories: dict[tuple[str, str], dict[str, dict[str, bytes]]]) -> None:
        self.repositories = repositories
        self.requests: list[tuple[str, str]] = []  # path, Range header
        self.tokens: list[tuple[str, str]] = []
        self.stall: dict[str, int] = {}
        self.damage: set[str] = set()
        self.sent, self.resume = threading.Event(), threading.Event()
        self.gated: set[str] = set()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self)

            do_HEAD = do_GET

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.resume.set()
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(request.path)
        path = unquote(parts.path)
        self.requests.append((path, request.headers.get("Range", "")))
        self.tokens.append((path, request.headers.get("Authorization", "")))
        api = path.startswith("/api/")
        kind = "dataset" if path.startswith(("/api/datasets/", "/datasets/")) else "model"
        rest = path.removeprefix("/api").removeprefix(f"/{kind}s").strip("/")
        if path.startswith("/raw/"):  # a file at a commit, as GitHub serves it
            owner, name, commit, file_path = path.removeprefix("/raw/").split("/", 3)
            return self.send_file(request, file_path, self.repositories["raw", f"{owner}/{name}"][commit][file_path])
        owner, name, verb, revision, *file = rest.split("/", 4)
        commits = self.repositories.get((kind, f"{owner}/{name}"))
        if commits is None:
            return error(request, 401 if api else 404, "RepoNotFound")
        if f"{owner}/{name}" in self.gated:
            return error(request, 403, "GatedRepo")
        commit = list(commits)[-1] if revision == "main" else revision
        if commit not in commits:
            return error(request, 404, "RevisionNotFound")
        if verb == "resolve":
            return self.send_file(request, file[0], commits[commit][file[0]])
        entries: Any = {"id": f"{owner}/{name}", "sha": commit, "siblings": []}
        if verb == "commits":
            entries = [commit_entry(c) for c in reversed(commits)]
        if verb == "tree":
            entries = [tree_entry(p, data) for p, data in sorted(commits[commit].items())]
        offset = int(parse_qs(parts.query).get("cursor", ["0"])[0])
        link = ""
        if isinstance(entries, list):
            if len(entries) > offset + PAGE:
                link = f'<{self.url}{parts.path}?cursor={offset + PAGE}>; rel="next"'
            entries = entries[offset : offset + PAGE]
        reply(request, 200, json.dumps(entries).encode(), {"Link": link} if link else {})
        return None

    def send_file(self, request: BaseHTTPRequestHandler, path: str, data: bytes) -> None:
        start = int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        if path in self.damage:
            data = data[:-1] + bytes([data[-1] ^ 1])
        request.send_response(206 if "Range" in request.headers else 200)
        request.send_header("Content-Length", str(len(data) - start))
        if "Range" in request.headers:
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        request.end_headers()
        stop = self.stall.get(path, len(data)) if start == 0 else len(data)
        request.wfile.write(data[start:stop])
        request.wfile.flush()
        if stop < len(data):
            self.sent.set()
            self.resume.wait(30)
            request.close_connection = True


def reply(request: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str]) -> None:
    request.send_response(status)
    for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(body)


def error(request: BaseHTTPRequestHandler, status: int, code: str) -> None:
    reply(request, status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})


def commit_entry(commit: str) -> dict[str, Any]:
    return {"id": commit, "authors": [], "date": "2024-01-01T00:00:00.000Z", "title": "", "message": ""}


def tree_entry(path: str, data: bytes) -> dict[str, Any]:
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": blob}
    if path.endswith((".safetensors", ".parquet", ".pt")):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return entry
