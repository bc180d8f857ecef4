"""A stand-in for the Hugging Face Hub on the loopback: what huggingface_hub asks for when it uploads and downloads.

Repositories live in memory. Every commit keeps its whole tree, branches and tags point at commits, large files go the
LFS way (batch, PUT, redirect on download), the others inside of the commit. `failures` answers the next requests that
match with an error, as a busy or a broken Hub does; `requests` tells what was asked.
"""

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

TOKEN = "hf_" + "t" * 34
"""The one token that this Hub knows; it belongs to the user `team`."""
LFS_FROM = 20_000
"""Bytes from which a file goes the LFS way."""


@dataclass
class Repository:
    """One repository: commit -> path -> content, and what points at commits."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        described = json.dumps({path: hashlib.sha256(content).hexdigest() for path, content in sorted(files.items())})
        name = hashlib.sha1(f"{len(self.commits)}{described}".encode()).hexdigest()
        self.commits[name] = files
        self.branches[branch] = name
        return name

    def resolve(self, revision: str) -> str | None:
        found = self.branches.get(revision) or self.tags.get(revision)
        return found or (revision if revision in self.commits else None)


@dataclass
class Failure:
    """An answer to the next `times` requests whose `METHOD /path` matches `pattern`."""

    pattern: str
    status: int
    times: int = 1
    headers: dict[str, str] = field(default_factory=lambda: {"Retry-After": "0"})


class HubServer(ThreadingHTTPServer):
    """The server; `repositories` is keyed by kind and name: `datasets/team/name`, `models/team/name`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.failures: list[Failure] = []
        self.damaged: dict[str, bytes] = {}
        """Path -> what a commit stores in place of what was sent."""
        self.requests: list[str] = []
        self.bytes_sent = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def store_url(self) -> str:
        """Large files come from another host than the Hub's, as they do there."""
        return f"http://localhost:{self.server_address[1]}/lfs"

    def files(self, name: str, revision: str = "main") -> dict[str, bytes]:
        repository = self.repositories[name]
        commit = repository.resolve(revision)
        assert commit is not None
        return repository.commits[commit]

    def asked(self, pattern: str) -> list[str]:
        return [request for request in self.requests if re.search(pattern, request)]


@contextlib.contextmanager
def serving() -> Iterator[HubServer]:
    server = HubServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def pointed_at(server: HubServer, home: Path, monkeypatch: pytest.MonkeyPatch, *, token: str | None = None) -> None:
    """Set what huggingface_hub takes from its environment, which it reads but once, when it is imported."""
    from huggingface_hub import constants

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_LEROBOT_HOME"):
        monkeypatch.delenv(name, raising=False)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setenv("HF_HOME", str(home))
    values = {
        "ENDPOINT": server.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_UPDATE_CHECK": True,
        "HF_HUB_DISABLE_PROGRESS_BARS": True,
        "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HUB_OFFLINE": False,
    }
    for name, value in values.items():
        monkeypatch.setattr(constants, name, value)


def environment(server: HubServer, home: Path) -> dict[str, str]:
    """The same for another process."""
    return {
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


class _Refusal(Exception):
    def __init__(self, status: int, code: str = "", message: str = "", headers: dict[str, str] | None = None) -> None:
        self.status, self.message = status, message or code
        self.headers = {"X-Error-Code": code, "X-Error-Message": self.message} if code else {}
        self.headers |= headers or {}


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: Any) -> None:
        pass

    def _serve(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            self.body = self._chunks()
        address = urlsplit(self.path)
        path = unquote(address.path)
        query = {name: values[0] for name, values in parse_qs(address.query).items()}
        try:
            with self.server.lock:
                self.server.requests.append(f"{self.command} {path}")
                self._fail(f"{self.command} {path}")
                for method, pattern, answer in _ROUTES:
                    match = re.fullmatch(pattern, path)
                    if method == self.command.replace("HEAD", "GET") and match:
                        status, headers, content = answer(
                            self, query, **{k: v for k, v in match.groupdict().items() if v}
                        )
                        break
                else:
                    raise _Refusal(404, "", f"no route for {self.command} {path}")
        except _Refusal as refusal:
            status, headers, content = refusal.status, refusal.headers, json.dumps({"error": refusal.message}).encode()
            headers = {"Content-Type": "application/json"} | headers
        self._answer(status, headers, content)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _chunks(self) -> bytes:
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def _fail(self, request: str) -> None:
        for failure in self.server.failures:
            if failure.times and re.search(failure.pattern, request):
                failure.times -= 1
                raise _Refusal(failure.status, "", "the stand-in was told to fail", failure.headers)

    def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
            self.server.bytes_sent += len(content)

    # What the routes below share

    def _user(self) -> bool:
        sent = self.headers.get("Authorization")
        if sent and sent != f"Bearer {TOKEN}":
            raise _Refusal(401, "", "Invalid credentials in Authorization header", _INVALID)
        return bool(sent)

    def _writer(self) -> None:
        if not self._user():
            raise _Refusal(401, "", "a token is needed", {"X-Error-Message": "a token is needed"})

    def _repository(self, kind: str, name: str) -> Repository:
        user, repository = self._user(), self.server.repositories.get(f"{kind}/{name}")
        if repository is None or (repository.private and not user):
            raise _Refusal(404 if user else 401, "RepoNotFound", "Repository not found")
        return repository

    def _commit(self, repository: Repository, revision: str) -> str:
        found = repository.resolve(revision)
        if found is None:
            raise _Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found

    def _json(self) -> Any:
        return json.loads(self.body)

    def create(self, query: dict[str, str]) -> "_Reply":
        self._writer()
        wanted = self._json()
        kind = f"{wanted.get('type', 'model')}s"
        name = f"{wanted.get('organization') or 'team'}/{wanted['name']}"
        known = self.server.repositories
        if f"{kind}/{name}" in known:
            return _reply({"url": f"{self.server.url}/{name}"}, 409)
        private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
        known[f"{kind}/{name}"] = repository = Repository(private=private)
        repository.commit({".gitattributes": b"*.mp4 filter=lfs\n"})
        prefix = "" if kind == "models" else f"{kind}/"
        return _reply({"url": f"{self.server.url}/{prefix}{name}", "name": name})

    def info(self, query: dict[str, str], kind: str, name: str, revision: str = "main") -> "_Reply":
        repository = self._repository(kind, name)
        commit = self._commit(repository, revision)
        siblings = [{"rfilename": path} for path in sorted(repository.commits[commit])]
        content = {"id": name, "sha": commit, "private": repository.private, "siblings": siblings, "tags": []}
        return _reply(content | {"gated": "auto" if repository.gated else False, "downloads": 0, "likes": 0})

    def refs(self, query: dict[str, str], kind: str, name: str) -> "_Reply":
        repository = self._repository(kind, name)

        def listed(what: dict[str, str], prefix: str) -> list[dict[str, str]]:
            return [{"name": n, "ref": f"refs/{prefix}/{n}", "targetCommit": c} for n, c in what.items()]

        return _reply(
            {"branches": listed(repository.branches, "heads"), "tags": listed(repository.tags, "tags"), "converts": []}
        )

    def tree(self, query: dict[str, str], kind: str, name: str, revision: str, below: str = "") -> "_Reply":
        repository = self._repository(kind, name)
        files = repository.commits[self._commit(repository, revision)]
        start, deep = f"{below.strip('/')}/" if below.strip("/") else "", query.get("recursive", "").lower() == "true"
        if start and not any(path.startswith(start) for path in files):
            raise _Refusal(404, "EntryNotFound", f"{below} does not exist")
        found: dict[str, dict[str, Any]] = {}
        for path, content in sorted(files.items()):
            if not path.startswith(start):
                continue
            parts = path[len(start) :].split("/")
            folders = [start + "/".join(parts[:depth]) for depth in range(1, len(parts))]
            for folder in folders if deep else folders[:1]:
                found[folder] = {"type": "directory", "path": folder, "oid": "0" * 40, "size": 0}
            if deep or not folders:
                found[path] = _entry(path, content)
        return _reply(list(found.values()))

    def paths_info(self, query: dict[str, str], kind: str, name: str, revision: str) -> "_Reply":
        repository = self._repository(kind, name)
        files = repository.commits[self._commit(repository, revision)]
        form = "json" not in self.headers.get("Content-Type", "")
        asked = parse_qs(self.body.decode())["paths"] if form else self._json()["paths"]
        found = [_entry(path, files[path]) for path in asked if path in files]
        for path in asked:
            if path not in files and any(file.startswith(f"{path}/") for file in files):
                found.append({"type": "directory", "path": path, "oid": "0" * 40, "size": 0})
        return _reply(found)

    def preupload(self, query: dict[str, str], kind: str, name: str, revision: str) -> "_Reply":
        self._writer()
        files = self.server.files(f"{kind}/{name}", revision)
        answers = []
        for file in self._json()["files"]:
            known = files.get(file["path"])
            mode = "lfs" if file["size"] >= LFS_FROM else "regular"
            oid = _oid(known) if known is not None else None
            answers.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return _reply({"files": answers})

    def batch(self, query: dict[str, str], name: str, kind: str | None = None) -> "_Reply":
        self._writer()
        objects = []
        for wanted in self._json()["objects"]:
            if wanted["oid"] not in self.server.large:
                upload = {"upload": {"href": f"{self.server.store_url}/{wanted['oid']}"}}
                wanted = wanted | {"actions": upload}
            objects.append(wanted)
        return _reply({"transfer": "basic", "objects": objects})

    def store(self, query: dict[str, str], oid: str) -> "_Reply":
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise _Refusal(400, "", "the content is not what its name says")
        self.server.large[oid] = self.body
        return _reply({})

    def commit(self, query: dict[str, str], kind: str, name: str, revision: str) -> "_Reply":
        self._writer()
        repository = self._repository(kind, name)
        files = dict(repository.commits[self._commit(repository, revision)])
        for line in self.body.splitlines():
            entry = json.loads(line)
            value, path = entry["value"], entry["value"].get("path", "")
            if entry["key"] == "file":
                files[path] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                if value["oid"] not in self.server.large:
                    raise _Refusal(400, "", f"{path}: its content was not uploaded")
                files[path] = self.server.large[value["oid"]]
            elif entry["key"] == "deletedFile":
                files.pop(path)
            elif entry["key"] == "deletedFolder":
                files = {file: content for file, content in files.items() if not file.startswith(f"{path}/")}
        files |= {path: content for path, content in self.server.damaged.items() if path in files}
        made = repository.commit(files, revision)
        return _reply({"success": True, "commitOid": made, "commitUrl": f"{self.server.url}/{name}/commit/{made}"})

    def tag(self, query: dict[str, str], kind: str, name: str, revision: str) -> "_Reply":
        self._writer()
        repository, tag = self._repository(kind, name), self._json()["tag"]
        if tag in repository.tags:
            raise _Refusal(409, "", f"Tag reference exists already: {tag}")
        repository.tags[tag] = self._commit(repository, revision)
        return _reply({})

    def untag(self, query: dict[str, str], kind: str, name: str, revision: str) -> "_Reply":
        self._writer()
        if self._repository(kind, name).tags.pop(revision, None) is None:
            raise _Refusal(404, "RevisionNotFound", "there is no such tag")
        return _reply({})

    def branch(self, query: dict[str, str], kind: str, name: str, revision: str) -> "_Reply":
        self._writer()
        repository = self._repository(kind, name)
        start = (self._json() if self.body else {}).get("startingPoint", "main")
        repository.branches[revision] = self._commit(repository, start)
        return _reply({})

    def unbranch(self, query: dict[str, str], kind: str, name: str, revision: str) -> "_Reply":
        self._writer()
        self._repository(kind, name).branches.pop(revision)
        return _reply({})

    def file(self, query: dict[str, str], name: str, revision: str, path: str, kind: str = "models") -> "_Reply":
        repository = self._repository(kind, name)
        if repository.gated and not self._user():
            raise _Refusal(401, "GatedRepo", "Access to this dataset is restricted")
        commit = self._commit(repository, revision)
        if path not in repository.commits[commit]:
            raise _Refusal(404, "EntryNotFound", f"{path} does not exist", {"X-Repo-Commit": commit})
        content = repository.commits[commit][path]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{_oid(content)}"', "Accept-Ranges": "bytes"}
        if len(content) >= LFS_FROM:
            linked = {"X-Linked-Size": str(len(content)), "X-Linked-ETag": headers["ETag"]}
            self.server.large.setdefault(_oid(content), content)
            return 302, headers | linked | {"Location": f"{self.server.store_url}/{_oid(content)}"}, b""
        return self._range(headers, content)

    def large(self, query: dict[str, str], oid: str) -> "_Reply":
        if oid not in self.server.large:
            raise _Refusal(404, "", "there is no such object")
        return self._range({"ETag": f'"{oid}"', "Accept-Ranges": "bytes"}, self.server.large[oid])

    def _range(self, headers: dict[str, str], content: bytes) -> "_Reply":
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        headers = {"Content-Type": "application/octet-stream"} | headers
        if not asked:
            return 200, headers | {"Content-Length": str(len(content))}, content
        first, last = int(asked[1]), min(int(asked[2] or len(content) - 1), len(content) - 1)
        if first >= len(content):
            raise _Refusal(416, "", "range not satisfiable", {"Content-Range": f"bytes */{len(content)}"})
        part = content[first : last + 1]
        extra = {"Content-Range": f"bytes {first}-{last}/{len(content)}", "Content-Length": str(len(part))}
        return 206, headers | extra, part

    def whoami(self, query: dict[str, str]) -> "_Reply":
        self._writer()
        return _reply({"type": "user", "name": "team", "orgs": [], "auth": {"type": "access_token"}})

    def valid(self, query: dict[str, str]) -> "_Reply":
        return _reply({"errors": [], "warnings": []})


_Reply = tuple[int, dict[str, str], bytes]
_INVALID = {"X-Error-Message": "Invalid credentials in Authorization header"}
_REPO = r"/api/(?P<kind>datasets|models)/(?P<name>[^/]+/[^/]+)"
_REVISION = r"(?P<revision>[^/]+)"
_ROUTES = [
    ("GET", r"/api/whoami-v2", _Handler.whoami),
    ("POST", r"/api/validate-yaml", _Handler.valid),
    ("POST", r"/api/repos/create", _Handler.create),
    ("GET", _REPO, _Handler.info),
    ("GET", _REPO + r"/revision/" + _REVISION, _Handler.info),
    ("GET", _REPO + r"/refs", _Handler.refs),
    ("GET", _REPO + r"/tree/" + _REVISION + r"(?P<below>/.*)?", _Handler.tree),
    ("POST", _REPO + r"/paths-info/" + _REVISION, _Handler.paths_info),
    ("POST", _REPO + r"/preupload/" + _REVISION, _Handler.preupload),
    ("POST", _REPO + r"/commit/" + _REVISION, _Handler.commit),
    ("POST", _REPO + r"/tag/" + _REVISION, _Handler.tag),
    ("DELETE", _REPO + r"/tag/" + _REVISION, _Handler.untag),
    ("POST", _REPO + r"/branch/" + _REVISION, _Handler.branch),
    ("DELETE", _REPO + r"/branch/" + _REVISION, _Handler.unbranch),
    ("POST", r"/((?P<kind>datasets)/)?(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", _Handler.store),
    ("GET", r"/lfs/(?P<oid>[0-9a-f]{64})", _Handler.large),
    ("GET", r"/((?P<kind>datasets)/)?(?P<name>[^/]+/[^/]+)/resolve/" + _REVISION + r"/(?P<path>.+)", _Handler.file),
]


def _reply(content: Any, status: int = 200) -> _Reply:
    return status, {"Content-Type": "application/json"}, json.dumps(content).encode()


def _oid(content: bytes) -> str:
    if len(content) >= LFS_FROM:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _entry(path: str, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content)}
    if len(content) < LFS_FROM:
        return entry | {"oid": _oid(content)}
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{_oid(content)}\nsize {len(content)}\n".encode()
    lfs = {"oid": _oid(content), "size": len(content), "pointerSize": len(pointer)}
    return entry | {"oid": hashlib.sha1(b"blob %d\0" % len(pointer) + pointer).hexdigest(), "lfs": lfs}
