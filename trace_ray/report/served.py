"""One run's page, served to this machine; to others only where a token was asked for."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

from trace_ray.errors import UserError

COOKIE = "trace_ray_watch"
Pages = Mapping[str, Callable[[], str]]
"""{path: makes its HTML}."""


def loopback(host: str) -> bool:
    """Returns whether a host names this machine alone.

    >>> [loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "10.0.0.1", "example.org")]
    [True, True, True, False, False, False]
    """
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def serve(pages: Pages, host: str, port: int, token: str = "") -> ThreadingHTTPServer:
    """Returns a server that listens; ``serve_forever`` is the caller's.

    Args:
        port: 0 = any that is free.
        token: that a reader must give once as ``?token=``; without one only a loopback host is served.
    Raises: UserError for another host without a token, or where it cannot listen.
    """
    if not token and not loopback(host):
        raise UserError("--host", host, "others could read the run: give --token, or leave --host out")
    handler = type("Handler", (_Handler,), {"pages": pages, "token": token})
    try:
        return ThreadingHTTPServer((host, port), handler)
    except OSError as error:
        raise UserError("--port", f"{host}:{port}", f"cannot listen there ({error.strerror}); use another") from None


class _Handler(BaseHTTPRequestHandler):
    """Answers GET alone; a browser of this machine that was led here by a foreign page's name is turned away."""

    pages: ClassVar[Pages] = {}
    token: ClassVar[str] = ""
    server_version = "trace-ray"
    sys_version = ""

    def do_GET(self) -> None:
        asked = urlsplit(self.path)
        given = parse_qs(asked.query).get("token", [""])[0]
        page = self.pages.get(asked.path)
        if self.token and not self._knows(given):
            self._answer(HTTPStatus.UNAUTHORIZED, "Give the token: ?token=...")
        elif not self.token and not loopback(urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""):
            self._answer(HTTPStatus.FORBIDDEN, "Only this machine is served.")
        elif page is None:
            self._answer(HTTPStatus.NOT_FOUND, "No such page.")
        else:
            self._answer(HTTPStatus.OK, page(), cookie=given if self.token else "")

    def _knows(self, given: str) -> bool:
        """Tokens are compared in a time that tells nothing of them."""
        try:
            cookie = SimpleCookie(self.headers.get("Cookie", "")).get(COOKIE)
        except CookieError:
            cookie = None
        wanted = self.token.encode()
        kept = cookie.value.encode() if cookie else b""
        return hmac.compare_digest(given.encode(), wanted) or hmac.compare_digest(kept, wanted)

    def _answer(self, code: HTTPStatus, text: str, cookie: str = "") -> None:
        body = text.encode()
        self.send_response(code)
        kind = "text/html" if code is HTTPStatus.OK else "text/plain"
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        for name, value in (
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            ("X-Frame-Options", "DENY"),
            ("Referrer-Policy", "no-referrer"),
        ):
            self.send_header(name, value)
        if cookie:
            self.send_header("Set-Cookie", f"{COOKIE}={cookie}; HttpOnly; SameSite=Strict; Path=/")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing: a line every two seconds, with the token in it, helps nobody."""
