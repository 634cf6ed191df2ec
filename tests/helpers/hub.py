"""A stand-in for the Hugging Face hub on loopback: what fetching and pushing use of its HTTP API, over files in memory.

Pushing's requests and answers are as huggingface_hub 2.4 sends and reads them: repos/create, validate-yaml, preupload,
git-lfs's batch with the transfer basic, PUT, commit as lines of JSON.
"""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

WRITER, READER = "hf_writer", "hf_reader"
LARGE = (".safetensors", ".parquet", ".pt", ".png")
"""Endings of files that the hub keeps in its LFS."""
PAGE = 3  # entries a page of a listing: small, so that paging happens


class Hub:
    """Repositories `(kind, name) -> {commit: {path: bytes}}`, commits oldest first; what was asked is in `requests`.

    `stall`: path -> bytes after which the answer hangs until `resume` is set. `damage`: paths that arrive with a wrong
    byte. Files that end in .safetensors, .parquet or .pt are in LFS. Requests' tokens
    are in `tokens`. Writing needs the token `WRITER`; what arrived in the store is in `store`, by its SHA-256; a PUT
    hangs once, before it's kept, where `stall_put` is set.
    """

    def __init__(self, repositories: dict[tuple[str, str], dict[str, dict[str, bytes]]]) -> None:
        self.repositories = repositories
        self.requests: list[tuple[str, str]] = []  # path, Range header
        self.tokens: list[tuple[str, str]] = []
        self.stall: dict[str, int] = {}
        self.damage: set[str] = set()
        self.sent, self.resume = threading.Event(), threading.Event()
        self.gated: set[str] = set()
        self.private: set[str] = set()
        self.store: dict[str, bytes] = {}
        self.puts: list[str] = []
        self.stall_put = 0
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self)

            do_HEAD = do_GET

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hub.post(self, unquote(urlsplit(self.path).path), body)

            def do_PUT(self) -> None:
                hub.put(self)

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
        if path == "/api/agent-harnesses":  # the client asks who may be calling
            return reply(request, 404, b"{}", {})
        api = path.startswith("/api/")
        kind = "dataset" if path.startswith(("/api/datasets/", "/datasets/")) else "model"
        rest = path.removeprefix("/api").removeprefix(f"/{kind}s").strip("/")
        if path.startswith("/raw/"):  # a file at a commit, as GitHub serves it
            owner, name, commit, file_path = path.removeprefix("/raw/").split("/", 3)
            return self.send_file(request, file_path, self.repositories["raw", f"{owner}/{name}"][commit][file_path])
        asked = rest.split("/", 4)
        owner, name, verb, revision, *file = asked if len(asked) > 2 else [*asked, "revision", "main"]
        commits = self.repositories.get((kind, f"{owner}/{name}"))
        if commits is None:
            return error(request, 401 if api else 404, "RepoNotFound")
        if f"{owner}/{name}" in self.gated:
            return error(request, 403, "GatedRepo")
        commit = list(commits or [""])[-1] if revision == "main" else revision
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

    def post(self, request: BaseHTTPRequestHandler, path: str, body: bytes) -> None:
        """Answers what pushing asks for; all of it needs the writer's token."""
        self.requests.append((path, ""))
        token = request.headers.get("Authorization", "")
        if token == f"Bearer {READER}":
            return error(request, 403, "Forbidden")
        if token != f"Bearer {WRITER}":
            request.close_connection = True
            return reply(request, 401, b"{}", {"X-Error-Message": "Invalid credentials in Authorization header"})
        if path == "/api/repos/create":
            return self.create(request, json.loads(body))
        if path == "/api/validate-yaml":
            asked = json.loads(body)
            wrong = [] if asked["content"].startswith("---\n") else [{"message": "expected a head"}]
            answer = {"errors": wrong, "warnings": []}
            return reply(request, 400 if wrong else 200, json.dumps(answer).encode(), {})
        if path.endswith(".git/info/lfs/objects/batch"):
            return self.batch(request, json.loads(body))
        name, _, verb = path.removeprefix("/api/models/").rpartition("/main")[0].rpartition("/")
        commits = self.repositories["model", name]
        if verb == "preupload":
            there = list(commits.values())[-1] if commits else {}
            found = [preuploaded(file, there) for file in json.loads(body)["files"]]
            return reply(request, 200, json.dumps({"files": found}).encode(), {})
        assert verb == "commit", path
        return self.commit(request, name, [json.loads(line) for line in body.splitlines()])

    def create(self, request: BaseHTTPRequestHandler, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        there = ("model", name) in self.repositories
        self.repositories.setdefault(("model", name), {})
        if asked.get("visibility") == "private":
            self.private.add(name)
        answer = {"url": f"{self.url}/{name}", "name": name, "id": name}
        reply(request, 409 if there else 200, json.dumps(answer).encode(), {})

    def batch(self, request: BaseHTTPRequestHandler, asked: dict[str, Any]) -> None:
        """git-lfs's batch: an object that is in the store gets no action."""
        assert asked["operation"] == "upload" and asked["hash_algo"] == "sha256"
        objects = [
            {"oid": one["oid"], "size": one["size"]}
            | ({} if one["oid"] in self.store else {"actions": {"upload": {"href": f"{self.url}/lfs/{one['oid']}"}}})
            for one in asked["objects"]
        ]
        reply(request, 200, json.dumps({"transfer": "basic", "objects": objects}).encode(), {})

    def put(self, request: BaseHTTPRequestHandler) -> None:
        oid = request.path.rpartition("/")[2]
        data = request.rfile.read(int(request.headers["Content-Length"]))
        self.puts.append(oid)
        if self.stall_put == len(self.puts):
            self.sent.set()
            self.resume.wait(60)
            request.close_connection = True
            return
        assert hashlib.sha256(data).hexdigest() == oid
        self.store[oid] = data
        reply(request, 200, b"", {})

    def commit(self, request: BaseHTTPRequestHandler, name: str, lines: list[dict[str, Any]]) -> None:
        header, *operations = lines
        assert header["key"] == "header" and header["value"]["summary"]
        commits = self.repositories["model", name]
        files = dict(list(commits.values())[-1]) if commits else {}
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            else:
                assert operation["key"] == "lfsFile" and value["algo"] == "sha256"
                files[value["path"]] = self.store[value["oid"]]
        oid = hashlib.sha1(json.dumps([len(commits), sorted(files)]).encode()).hexdigest()
        commits[oid] = files
        url = f"{self.url}/{name}/commit/{oid}"
        answer = {"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""}
        reply(request, 200, json.dumps(answer).encode(), {})

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


def preuploaded(file: dict[str, Any], there: dict[str, bytes]) -> dict[str, Any]:
    """The answer for a file that is to be uploaded: its way, and the blob or LFS id of what the repository has."""
    large, data = file["path"].endswith(LARGE), there.get(file["path"])
    oid = None if data is None else hashlib.sha256(data).hexdigest() if large else git_blob(data)
    return {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid}


def git_blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def tree_entry(path: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": git_blob(data)}
    if path.endswith(LARGE):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return entry
