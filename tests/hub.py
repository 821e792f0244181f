"""A stand-in for the Hugging Face Hub on 127.0.0.1, and a child process whose Hub libraries are pointed at it.

It speaks as much of the Hub's API as `huggingface_hub.snapshot_download` and `datasets.load_dataset(streaming=True)`
ask for, and refuses with the same status codes and `X-Error-Code` headers as the real one.
"""

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class Hub:
    """Serves `folder/models/org/name` and `folder/datasets/org/name`; a further revision lies in `org/name@revision`.

    Args:
        private: repository -> the token that opens it; to anybody else it does not exist.
        gated: repository -> the token that may read its files; its listing is public, as on the Hub.
        tokens: further tokens that belong to somebody. Any other token is refused as invalid.

    `requests` collects `METHOD /path` of every request, in the order they came.
    """

    folder: Path
    private: dict[str, str] = field(default_factory=dict)
    gated: dict[str, str] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)

    def __enter__(self) -> "Hub":
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()

    def fetched(self, repository: str) -> set[str]:
        """The files of a repository whose content was asked for."""
        mark = f"GET /{repository}/resolve/"
        return {line[len(mark) :].partition("/")[2] for line in self.requests if line.startswith(mark)}


class _Refused(Exception):
    def __init__(self, status: int, code: str = "", message: str = ""):
        self.status, self.headers = status, {"X-Error-Code": code, "X-Error-Message": message}


def commit(name: str, revision: str) -> str:
    return hashlib.sha1(f"{name}@{revision}".encode()).hexdigest()


def _describe(root: Path, path: Path) -> dict:
    name = path.relative_to(root).as_posix()
    oid = hashlib.sha1(path.read_bytes() if path.is_file() else name.encode()).hexdigest()
    size = path.stat().st_size if path.is_file() else 0
    return {"type": "file" if path.is_file() else "directory", "path": name, "size": size, "oid": oid}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_GET

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _serve(self) -> None:
        url = urlsplit(self.path)
        self.hub.requests.append(f"{self.command} {unquote(url.path)}")
        body, parts = self._body(), url.path.strip("/").split("/")
        try:
            if self.command == "POST" and {"create", "preupload", "commit", "validate-yaml"} & set(parts):
                status, headers, content = 200, {"Content-Type": "application/json"}, self._upload(parts, body)
            else:
                status, headers, content = self._answer(parts, parse_qs(url.query), body.decode())
        except _Refused as error:
            status, headers, content = error.status, error.headers, b"{}"
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _upload(self, parts: list[str], body: bytes) -> bytes:
        """`create_repo`, and the three requests of `upload_folder`; every file is taken as a regular one."""
        hub, token = self.hub, (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token not in hub.tokens:
            raise _Refused(401, message="Invalid username or password.")
        if parts[1:3] == ["repos", "create"]:
            wanted = json.loads(body)
            name = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
            (hub.folder / "models" / name).mkdir(parents=True, exist_ok=True)
            if wanted.get("private") or wanted.get("visibility") == "private":
                hub.private[name] = token
            return json.dumps({"url": f"{hub.endpoint}/{name}", "name": name}).encode()
        if parts[1] == "validate-yaml":
            return b'{"errors": [], "warnings": []}'
        name = "/".join(parts[2:4])
        if parts[4] == "preupload":
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return json.dumps({"files": files}).encode()
        for line in map(json.loads, body.decode().splitlines()):
            if line["key"] == "file":
                path = hub.folder / "models" / name / line["value"]["path"]
                path.write_bytes(base64.b64decode(line["value"]["content"]))
        address = f"{hub.endpoint}/{name}/commit/{commit(name, 'main')}"
        return json.dumps({"commitUrl": address, "commitOid": commit(name, "main"), "success": True}).encode()

    def _answer(self, parts: list[str], query: dict, body: str) -> tuple[int, dict, bytes]:
        parts = [unquote(part) for part in parts]
        api = parts[:1] == ["api"]
        parts = parts[1:] if api else parts
        kind = parts.pop(0) if parts[:1] in (["models"], ["datasets"]) else "models"
        if len(parts) < 2:
            raise _Refused(404)
        name, action, rest = "/".join(parts[:2]), parts[2:3], parts[3:]
        if api:
            revision, inner = (rest or ["main"])[0], rest[1:]
            root, sha = self._open(kind, name, revision)
            return 200, {"Content-Type": "application/json"}, self._facts(root, name, sha, action, inner, query, body)
        if action != ["resolve"] or len(rest) < 2:
            raise _Refused(404)
        root, sha = self._open(kind, name, rest[0], reads_files=True)
        return self._file(root.joinpath(*rest[1:]), sha)

    def _open(self, kind: str, name: str, revision: str, reads_files: bool = False) -> tuple[Path, str]:
        """The folder and commit of a repository, or the refusal that the Hub would answer with."""
        hub, token = self.hub, (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in {*hub.tokens, *hub.private.values(), *hub.gated.values()}:
            raise _Refused(401, message="Invalid credentials in Authorization header")
        folder = hub.folder / kind
        if not (folder / name).is_dir() or hub.private.get(name, token) != token:
            raise _Refused(404 if token else 401, "RepoNotFound", "Repository not found")
        if reads_files and hub.gated.get(name, token) != token:
            raise _Refused(403 if token else 401, "GatedRepo", f"Access to {kind} {name} is restricted.")
        others = [path.name.partition("@")[2] for path in (folder / name).parent.glob(f"{Path(name).name}@*")]
        for known in ("main", *others):
            if revision in (known, commit(name, known)):
                return (folder / name if known == "main" else folder / f"{name}@{known}"), commit(name, known)
        raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")

    def _facts(self, root: Path, name: str, sha: str, action: list[str], inner: list[str], query: dict, body: str):
        if action == ["tree"]:
            start = root.joinpath(*inner)
            if not start.is_dir():
                raise _Refused(404, "EntryNotFound", "Entry not found")
            deep = query.get("recursive", ["false"])[0].lower() == "true"
            content = [_describe(root, path) for path in sorted(start.rglob("*") if deep else start.iterdir())]
        elif action == ["paths-info"]:
            paths = [root / path for path in parse_qs(body).get("paths", [])]
            content = [_describe(root, path) for path in paths if path.exists()]
        else:
            files = sorted(path for path in root.rglob("*") if path.is_file())
            siblings = [{"rfilename": path.relative_to(root).as_posix()} for path in files]
            content = {"id": name, "sha": sha, "private": name in self.hub.private, "siblings": siblings, "tags": []}
        return json.dumps(content).encode()

    def _file(self, path: Path, sha: str) -> tuple[int, dict, bytes]:
        if not path.is_file():
            raise _Refused(404, "EntryNotFound", "Entry not found")
        content = path.read_bytes()
        headers = Message()
        headers["ETag"] = f'"{hashlib.sha1(content).hexdigest()}"'
        headers["X-Repo-Commit"], headers["Accept-Ranges"] = sha, "bytes"
        wanted = self.headers.get("Range", "").removeprefix("bytes=")
        if not wanted:
            return 200, dict(headers), content
        first, _, last = wanted.partition("-")
        start, end = int(first), min(int(last or len(content) - 1), len(content) - 1)
        headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        return 206, dict(headers), content[start : end + 1]


_CHILD = """
import json, os, sys, traceback
channel = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
from nbhelpers.data import sources
from nbhelpers.models import loading
for line in sys.stdin:
    expression, token = json.loads(line)
    if "sources" in expression:
        import datasets
        datasets.config.USE_PARQUET_EXPORT = False  # it is served by another host
    os.environ.pop("HF_TOKEN", None)
    os.environ |= {"HF_TOKEN": token} if token else {}
    try:
        answer = {"value": eval(expression)}
    except Exception as error:
        answer = {"error": type(error).__name__, "message": str(error), "traceback": traceback.format_exc()}
    print(json.dumps(answer, default=str), file=channel, flush=True)
"""


class Client:
    """A child process with an empty cache that evaluates expressions over `models` and `sources` against a Hub.

    A process of its own because the Hub libraries read their settings when they are imported. What it prints goes to
    `output`.
    """

    def __init__(self, folder: Path, endpoint: str, **environment: str):
        folder.mkdir(parents=True, exist_ok=True)
        self.output = folder / "output.txt"
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))
        }
        own = {
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(folder / "home"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "*",
            "PYTHONPATH": str(Path(__file__).parent.parent),
        }
        with open(self.output, "w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _CHILD], env=inherited | own | environment, text=True, cwd=folder,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output,
            )  # fmt: skip

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_) -> None:
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()

    def _ask(self, expression: str, token: str | None) -> dict:
        self.process.stdin.write(json.dumps([expression, token]) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"the child process ended: {self.output.read_text()}"
        return json.loads(line)

    def value(self, expression: str, token: str | None = None):
        """What the expression is, as JSON; `token` is HF_TOKEN while it is evaluated."""
        answer = self._ask(expression, token)
        assert "value" in answer, answer["traceback"]
        return answer["value"]

    def refusal(self, expression: str, token: str | None = None) -> dict[str, str]:
        """`{"error", "message", "traceback"}` of the error that the expression raises."""
        answer = self._ask(expression, token)
        assert "error" in answer, f"{expression} was expected to fail and is {answer['value']}"
        return answer
