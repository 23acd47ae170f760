"""An S3 service on this machine that can be made to fail: moto's server, and before it a proxy that injects seeded faults.

Each request's fate is drawn from the seed, the method, the object and how often that was asked before, not from a clock: the
same client meets the same faults whatever its threads do. No request fails more than ``worst`` times in a row, so a client
that tries often enough gets through; ``down`` makes a place fail for good.
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from unittest import mock
from urllib.parse import parse_qsl, urlsplit

ACCESS_KEY, SECRET_KEY = "AKIAFULCRUMTESTKEY00", "secret/that+must/appear+nowhere/0123456"
BUCKET = "footage"
_ERROR = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>injected</Message></Error>'


@dataclass(frozen=True)
class Rates:
    """How many of a thousand requests meet each fault."""

    error_500: int = 0
    slow_down_503: int = 0
    hang: int = 0  # no answer until the client gives up
    slow: int = 0  # the answer comes in pieces
    reset_body: int = 0  # the connection breaks in the middle of the answer
    torn_upload: int = 0  # it breaks in the middle of what is sent: nothing is stored
    lost_answer: int = 0  # what was sent is stored, and the client is not told

    def draw(self, number: int) -> str | None:
        """The fault of a request that drew ``number``, 0 to 999."""
        for name, share in vars(self).items():
            if number < share:
                return str(name)
            number -= share
        return None


EVERYTHING = Rates(error_500=60, slow_down_503=60, hang=4, slow=30, reset_body=60, torn_upload=60, lost_answer=40)


@dataclass
class Seen:
    """What came through the proxy."""

    requests: Counter[str] = field(default_factory=Counter)  # by method, or LIST
    faults: Counter[str] = field(default_factory=Counter)
    most_keys: int = 0  # of one answer to a list request
    lists: Counter[str] = field(default_factory=Counter)  # list requests by prefix
    sent: int = 0  # bytes of bodies, client to service
    received: int = 0
    access_keys: set[str] = field(default_factory=set)  # whom the requests said they came from


class Proxy(ThreadingHTTPServer):
    """Between a client and the service at ``upstream`` (host:port)."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, upstream: str, seed: int, rates: Rates, hang_s: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream, self.seed, self.rates, self.hang_s = upstream, seed, rates, hang_s
        self.seen = Seen()
        self.worst = 3
        self.down: re.Pattern[str] | None = None
        self._lock = threading.Lock()
        self._asked: Counter[str] = Counter()
        self._in_a_row: Counter[str] = Counter()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def fate(self, method: str, target: str) -> str | None:
        """The fault that this request meets, if any."""
        parts = urlsplit(target)
        # what the service or the client makes up anew each time is no part of what is asked for
        asked = {k: v for k, v in parse_qsl(parts.query, keep_blank_values=True) if k not in ("uploadId", "x-id")}
        made_up = re.compile(r"[0-9a-f]{32}|(?<=-)[0-9a-f]{6,8}(?=[/.]|$)|\d{8}T\d{6}-\d{6}-[0-9a-f]{6}")
        what = made_up.sub("*", f"{method} {parts.path} {sorted(asked.items())}")
        with self._lock:
            if self.down is not None and self.down.search(target):
                self.seen.faults["down"] += 1
                return "error_500"
            count = self._asked[what]
            self._asked[what] += 1
            drawn = hashlib.sha256(f"{self.seed} {what} {count}".encode()).digest()
            fault = self.rates.draw(int.from_bytes(drawn[:4], "little") % 1000)
            if fault == "torn_upload" and method not in ("PUT", "POST"):
                fault = "error_500"
            if fault == "reset_body" and method == "HEAD":
                fault = "slow_down_503"
            if fault is None or self._in_a_row[what] >= self.worst:
                self._in_a_row[what] = 0
                return None
            self._in_a_row[what] += fault != "slow"
            self.seen.faults[fault] += 1
            return fault

    def note(self, method: str, target: str, sent: int, body: bytes) -> None:
        query = dict(parse_qsl(urlsplit(target).query, keep_blank_values=True))
        listing = method == "GET" and "list-type" in query
        with self._lock:
            self.seen.requests["LIST" if listing else method] += 1
            self.seen.sent += sent
            self.seen.received += len(body)
            if listing:
                self.seen.lists[query.get("prefix", "")] += 1
                self.seen.most_keys = max(
                    self.seen.most_keys, body.count(b"<Contents>") + body.count(b"<CommonPrefixes>")
                )

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away, which is what this is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: what was asked is counted."""

    def _one(self) -> None:
        self.server.seen.access_keys.update(re.findall(r"Credential=(\w+)/", self.headers.get("Authorization", "")))
        fault = self.server.fate(self.command, self.path)
        length = int(self.headers.get("Content-Length") or 0)
        if fault == "torn_upload" and length:
            self.rfile.read(length // 2)
            self._cut()
            return
        body = self._body(length)
        if fault == "hang":
            time.sleep(self.server.hang_s)
            self._cut()
            return
        if fault in ("error_500", "slow_down_503", "torn_upload"):
            code, name = (503, "SlowDown") if fault == "slow_down_503" else (500, "InternalError")
            self._answer(code, [("Content-Type", "application/xml")], _ERROR.format(code=name).encode(), None)
            return
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=60)
        headers = {
            k: v for k, v in self.headers.items() if k.lower() not in ("connection", "expect", "transfer-encoding")
        }
        upstream.request(self.command, self.path, body, {**headers, "Content-Length": str(len(body))})
        answer = upstream.getresponse()
        content = answer.read()
        self.server.note(self.command, self.path, len(body), content)
        upstream.close()
        if fault == "lost_answer":
            self._cut()
            return
        kept = [
            (k, v)
            for k, v in answer.getheaders()
            if k.lower() not in ("connection", "transfer-encoding", "server", "date")
        ]
        self._answer(answer.status, kept, content, fault)

    def _body(self, length: int) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(length) if length else b""
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, fault: str | None) -> None:
        self.send_response_only(status)
        told = {name.lower() for name, _ in headers}
        for name, value in headers:
            self.send_header(name, value)
        if "content-length" not in told and status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault == "reset_body":
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self._cut()
            return
        pieces = 8 if fault == "slow" and len(body) > 8 else 1
        step = -(-len(body) // pieces) or 1
        for start in range(0, len(body), step):
            if pieces > 1:
                time.sleep(0.03)
            self.wfile.write(body[start : start + step])

    def _cut(self) -> None:
        """Break the connection with a reset, not a polite end."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _one


@contextmanager
def environment() -> Iterator[dict[str, str]]:
    """Credentials where the usual chain looks first, and none of this machine's own."""
    given = {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "NO_PROXY": "127.0.0.1",
    }
    with mock.patch.dict(os.environ, given):
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
            os.environ.pop(name, None)
        yield given


@contextmanager
def service() -> Iterator[str]:
    """An S3 service without faults, empty but for the bucket; its ``host:port``."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        asked = http.client.HTTPConnection(host, port)
        asked.request("PUT", f"/{BUCKET}")
        assert asked.getresponse().status == 200
        yield f"{host}:{port}"
    finally:
        server.stop()


@contextmanager
def faulty(upstream: str, seed: int = 0, rates: Rates = Rates(), hang_s: float = 3.0) -> Iterator[Proxy]:
    """A proxy before the service; clients speak to its ``address``."""
    proxy = Proxy(upstream, seed, rates, hang_s)
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()


def uri(address: str, path: str) -> str:
    """``s3://`` of a path in the bucket, at the service or a proxy before it."""
    return f"s3://{BUCKET}/{path}?endpoint_override={address}&scheme=http&region=us-east-1"
