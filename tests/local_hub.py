"""The part of the Hugging Face hub's API that reads models and data sets, over folders on disk."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
API = re.compile(
    r"/api/(?P<kind>models|datasets)/(?P<repo>[\w.-]+/[\w.-]+)"
    r"(/(?P<what>revision|tree|paths-info|refs)(/(?P<revision>[\w.-]+))?(/(?P<path>.+))?)?"
)
FILE = re.compile(
    r"/((?P<kind>datasets)/)?(?P<repo>[\w.-]+/[\w.-]+)/resolve/(?P<revision>[\w.-]+)/(?P<path>.+)"
)


class LocalHub(ThreadingHTTPServer):
    """Serves models/OWNER/NAME and datasets/OWNER/NAME below a folder, at one commit."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        """Serve on a free port of this machine."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LocalHub

    def do_request(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        if match := FILE.fullmatch(path):
            self._send_file(match)
        elif match := API.fullmatch(path):
            self._send_facts(match, body)
        else:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"})

    do_GET = do_HEAD = do_POST = do_request  # noqa: N815

    def _repo(self, match: re.Match[str]) -> Path:
        return self.server.folder / (match["kind"] or "models") / match["repo"]

    def _send_file(self, match: re.Match[str]) -> None:
        path = self._repo(match) / match["path"]
        if not path.is_file():
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            return
        content = path.read_bytes()
        headers = {"ETag": f'"{_object_id(path)}"', "X-Repo-Commit": COMMIT}
        headers["Accept-Ranges"] = "bytes"
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            first, last = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            self._send(206, content[first : last + 1], headers)
        else:
            self._send(200, content, headers)

    def _send_facts(self, match: re.Match[str], body: bytes) -> None:
        repo, facts = self._repo(match), None
        files = sorted(path for path in repo.rglob("*") if path.is_file())
        if match["what"] in (None, "revision") and files:
            siblings = [{"rfilename": path.relative_to(repo).as_posix()} for path in files]
            facts = {"id": match["repo"], "sha": COMMIT, "siblings": siblings, "private": False}
            facts |= {"downloads": 0, "likes": 0, "tags": [], "gated": False, "disabled": False}
        elif match["what"] == "tree" and (repo / (match["path"] or "")).is_dir():
            below = repo / (match["path"] or "")
            facts = [_entry(path, repo) for path in sorted(below.iterdir())]
            if "recursive=True" in self.path or "recursive=true" in self.path:
                facts = [_entry(path, repo) for path in sorted(below.rglob("*"))]
        elif match["what"] == "paths-info":
            names = _names(body, self.headers.get("Content-Type") or "")
            facts = [_entry(repo / name, repo) for name in names if (repo / name).exists()]
        elif match["what"] == "refs":
            main = {"name": "main", "ref": "refs/heads/main", "targetCommit": COMMIT}
            facts = {"branches": [main], "converts": [], "tags": [], "pullRequests": []}
        code = "EntryNotFound" if files else "RepoNotFound"
        if facts is None:
            self._send(404, b"", {"X-Error-Code": code})
        else:
            self._send(200, json.dumps(facts).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""


def _names(body: bytes, content_type: str) -> list[str]:
    """Paths that are asked about, in either encoding that clients use."""
    if "json" in content_type:
        return list(json.loads(body)["paths"])
    return parse_qs(body.decode())["paths"]


def _entry(path: Path, repo: Path) -> dict[str, Any]:
    name = path.relative_to(repo).as_posix()
    if path.is_dir():
        return {"type": "directory", "oid": COMMIT, "size": 0, "path": name}
    return {
        "type": "file",
        "oid": _object_id(path),
        "size": path.stat().st_size,
        "path": name,
    }


def _object_id(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def local_hub(folder: Path) -> Iterator[str]:
    """Serve a folder until the end of the block; gives the address."""
    with LocalHub(folder) as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        try:
            yield hub.url
        finally:
            hub.shutdown()
