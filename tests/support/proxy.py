"""A faulty way to a real S3 server: throttles, fails, resets, hangs or cuts answers short, by a seeded plan."""

from __future__ import annotations

import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

SLOW_DOWN = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code>'
    b"<Message>Please reduce your request rate.</Message></Error>"
)
FAULTS = ("slow_down", "unavailable", "reset", "cut", "hang")


class FaultyProxy:
    """Listens on loopback and passes requests on to ``target`` (host, port), but for a share of them.

    Args:
        share: {fault: probability of one request}.
        hang_seconds: how long a hanging request stays unanswered before its connection is closed.
    """

    def __init__(
        self, target: tuple[str, int], share: dict[str, float], seed: int = 0, hang_seconds: float = 3.0
    ) -> None:
        self.target, self.share, self.hang_seconds = target, dict(share), hang_seconds
        self.random = random.Random(seed)
        self.lock = threading.Lock()
        self.seen: Counter[str] = Counter()
        self.requests: list[str] = []
        self.signed_by: list[str] = []
        self.sent = 0
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except (ConnectionError, ValueError):
                    self.close_connection = True

            def log_message(self, *_: object) -> None: ...

            def __getattr__(self, name: str) -> object:
                if name.startswith("do_"):
                    return lambda: proxy.serve(self)
                raise AttributeError(name)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.shutdown()
        self.server.server_close()

    def serve(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        with self.lock:
            drawn, fault = self.random.random(), ""
            for name in FAULTS:
                drawn -= self.share.get(name, 0.0)
                if drawn < 0 and not fault:
                    fault = name
            self.seen[fault or "passed"] += 1
            self.requests.append(f"{request.command} {request.path}")
            self.signed_by.append(request.headers.get("Authorization", ""))
        match fault:
            case "slow_down" | "unavailable":
                self._send(request, 503, SLOW_DOWN if fault == "slow_down" else b"", {})
            case "reset":
                self._reset(request)
            case "hang":
                time.sleep(self.hang_seconds)
                self._reset(request)
            case _:
                self._forward(request, body, cut=fault == "cut")

    def _forward(self, request: BaseHTTPRequestHandler, body: bytes, *, cut: bool) -> None:
        upstream = http.client.HTTPConnection(*self.target, timeout=60)
        try:
            upstream.putrequest(request.command, request.path, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.items():
                if name.lower() not in ("connection", "expect"):
                    upstream.putheader(name, value)
            upstream.endheaders(body)
            answer = upstream.getresponse()
            data = answer.read()
            self._send(request, answer.status, data, dict(answer.headers), cut=cut)
        finally:
            upstream.close()

    def _send(
        self, request: BaseHTTPRequestHandler, status: int, data: bytes, headers: dict[str, str], *, cut: bool = False
    ) -> None:
        request.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("connection", "transfer-encoding", "content-length", "server", "date"):
                request.send_header(name, value)
        length = headers.get("Content-Length", str(len(data))) if request.command == "HEAD" else str(len(data))
        request.send_header("Content-Length", length)
        request.end_headers()
        if cut and len(data) > 1:
            request.wfile.write(data[: len(data) // 2])
            request.wfile.flush()
            self._reset(request)
        elif request.command != "HEAD":
            request.wfile.write(data)
            self.sent += len(data)

    def _reset(self, request: BaseHTTPRequestHandler) -> None:
        request.close_connection = True
        request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.connection.close()
