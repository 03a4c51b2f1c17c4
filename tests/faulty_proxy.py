"""An HTTP proxy that passes requests on to a real server and spoils those that a test names."""

from __future__ import annotations

import http.client
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import urlsplit

Kind = Literal["error", "drop", "cut", "stall"]
NOT_PASSED_ON = {"connection", "transfer-encoding", "expect"}


@dataclass
class Fault:
    """What goes wrong with the next requests that fit."""

    kind: Kind
    """`error`: the answer is status 500. `drop`: the connection ends without an answer. `cut`: it
    ends in the middle of what is sent or received. `stall`: there is no answer until the end."""
    requests: re.Pattern[str]
    """Fits method and path, such as `GET /bucket/.*mds`."""
    times: float
    """How many more requests go wrong."""


class FaultyProxy(ThreadingHTTPServer):
    """Serves at `url` what the server at `upstream` serves, but for the faults."""

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        """Serve on a free port of this machine."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(upstream)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.requests: list[str] = []
        """Method and path of each request so far."""
        self.spoiled: list[str] = []
        """Those among them that went wrong."""
        self.ended = threading.Event()
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def fail(self, kind: Kind, requests: str = ".*", times: float = 1) -> None:
        """Let the next requests that fit go wrong; `math.inf` times is for good."""
        self._faults.append(Fault(kind, re.compile(requests), times))

    def mend(self) -> None:
        """Take all faults away."""
        self._faults.clear()

    def fault_of(self, request: str) -> Kind | None:
        """What goes wrong with this request, which counts as one time."""
        with self._lock:
            self.requests.append(request)
            for fault in self._faults:
                if fault.times > 0 and fault.requests.match(request):
                    fault.times -= 1
                    self.spoiled.append(request)
                    return fault.kind
        return None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients go away in the middle of stalled and cut transfers; that is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyProxy

    def do_request(self) -> None:
        fault = self.server.fault_of(f"{self.command} {self.path}")
        length = int(self.headers.get("Content-Length") or 0)
        if fault == "cut" and length:
            self.rfile.read(length // 2)
        if fault == "drop" or (fault == "cut" and length):
            self._hang_up()
            return
        body = self.rfile.read(length)
        if fault == "stall":
            self.server.ended.wait()
            self._hang_up()
            return
        if fault == "error":
            self.send_response(500)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self._pass_on(body, cut=fault == "cut")

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_request  # noqa: N815

    def _pass_on(self, body: bytes, cut: bool) -> None:
        upstream = http.client.HTTPConnection(self.server.upstream.netloc)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
        upstream.request(self.command, self.path, body or None, headers)
        answer = upstream.getresponse()
        content = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in {*NOT_PASSED_ON, "content-length", "date", "server"}:
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else len(content)
        self.send_header("Content-Length", str(length or 0))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)
        upstream.close()
        if cut:
            self._hang_up()

    def _hang_up(self) -> None:
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""


@contextmanager
def faulty_proxy(upstream: str) -> Iterator[FaultyProxy]:
    """Run a proxy until the end of the block."""
    with FaultyProxy(upstream) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        try:
            yield proxy
        finally:
            proxy.ended.set()
            proxy.shutdown()
