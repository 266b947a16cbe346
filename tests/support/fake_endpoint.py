"""An OpenAI-compatible endpoint on loopback whose verdicts are read off the judged text, and which can misbehave."""

from __future__ import annotations

import json
import math
import os
import random
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.support.local_server import LocalServer, QuietHandler

RESPONSE = re.compile(r"<response>\n(.*)\n</response>", re.DOTALL)


def p_yes(text: str) -> float:
    """BAD violates, UNSURE is in the middle, all else complies."""
    return 0.95 if "BAD" in text else 0.5 if "UNSURE" in text else 0.05


class FakeEndpoint(LocalServer):
    """Serves until closed.

    Args:
        fault: told each judged response and how often it was asked for before; returns (status, headers) to misbehave.
        deadly: a response containing this has its asker's process killed, each time.
        odd: {judged response: the JSON that it is answered with, status 200}.
    """

    def __init__(self, fault: Callable[[str, int], tuple[int, dict[str, str]] | None] = lambda _t, _n: None) -> None:
        self.fault, self.deadly, self.kill_after, self.delay = fault, "", 0, 0.0
        self.odd: dict[str, Any] = {}
        self.asked: Counter[str] = Counter()
        self.times: list[tuple[str, float]] = []
        self.keys: set[str] = set()
        self.payloads: list[dict[str, Any]] = []
        self.in_flight = self.most_in_flight = 0
        self.killed: set[int] = set()  # processes: several requests of one may be at its end
        self.lock = threading.Lock()
        outer = self

        class Handler(QuietHandler):
            def do_POST(self) -> None:
                outer.handle(self)

        self.serve(Handler)

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        payload = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        match = RESPONSE.search(payload["messages"][-1]["content"])
        text = match[1] if match else ""
        with self.lock:
            before = self.asked[text]
            self.asked[text] += 1
            self.times.append((text, time.monotonic()))
            self.payloads.append(payload)
            self.keys.add(handler.headers.get("Authorization", ""))
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            accident = self.kill_after and sum(self.asked.values()) == self.kill_after
        try:
            if accident or (self.deadly and self.deadly in text):
                self.kill(handler.client_address[1])
                return
            time.sleep(self.delay)
            wrong = self.fault(text, before)
            status, headers = wrong or (200, {})
            told = {"error": "injected"} if wrong else self.odd[text] if text in self.odd else answer(payload, text)
            body = json.dumps(told).encode()
            handler.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(body)
        finally:
            with self.lock:
                self.in_flight -= 1

    def kill(self, port: int) -> None:
        """Kills the process at the other end of a connection: what a poisonous input does to an engine."""
        import psutil

        ends = (port, self.server.server_port)  # the port alone may be that of another's connection, Ray's own too
        for connection in psutil.net_connections("tcp"):
            known = connection.laddr and connection.raddr and connection.pid not in (None, os.getpid())
            if known and (connection.laddr.port, connection.raddr.port) == ends:
                self.killed.add(connection.pid)
                os.kill(connection.pid, signal.SIGKILL)


def drawn(payload: dict[str, Any], text: str) -> dict[str, Any]:
    """One of several answers: by its seed, Yes as often as ``p_yes`` says; with reasons where JSON is asked for."""
    violates = random.Random(f"{text} {payload['seed']}").random() < p_yes(text)
    said = "Yes" if violates else "No."
    if "response_format" in payload:
        said = json.dumps({"reasoning": f"seed {payload['seed']}", "violates": violates, "clauses": ["two"] * violates})
    choice = {"message": {"content": said}, "finish_reason": "stop" if "response_format" in payload else "length"}
    return {"choices": [choice], "usage": {"total_tokens": 30, "completion_tokens": 4}}


def answer(payload: dict[str, Any], text: str) -> dict[str, Any]:
    if "seed" in payload:
        return drawn(payload, text)
    if payload["max_tokens"] > 1:
        draft = "GOOD, corrected" if "HOPELESS" not in text else "still BAD"
        return {"choices": [{"message": {"content": draft}}], "usage": {"total_tokens": 20, "completion_tokens": 8}}
    clause = re.search(r"violate \[(\w+)\]", payload["messages"][-1]["content"].rpartition("</response>")[2])
    yes = p_yes(text) if clause is None else 0.9 if clause[1] in re.findall(r"\w+", text) else 0.1
    alternatives = [("Yes", yes * 0.9), (" no", (1 - yes) * 0.9), ("Maybe", 0.1)]
    if "MUMBLE" in text:
        alternatives = [("Well", 0.9), ("Yes", 0.05)]
    top = [{"token": token, "logprob": math.log(p)} for token, p in alternatives]
    content = [{"token": top[0]["token"], "logprob": top[0]["logprob"], "top_logprobs": top}]
    return {
        "choices": [{"message": {"content": "x"}, "logprobs": {"content": content}}],
        "usage": {"total_tokens": 10, "completion_tokens": 1},
    }
