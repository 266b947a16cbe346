"""An OpenAI-compatible endpoint on loopback that takes batch files, with the list, files and states of the real ones."""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.support.fake_endpoint import RESPONSE, answer
from tests.support.local_server import LocalServer, QuietHandler

_GONE = "no such file"


class FakeBatches(LocalServer):
    """Serves until closed; requests outside batches are answered too.

    Args:
        fault: told each judged response and how often a batch had it before; returns the status of a line that fails.
    """

    def __init__(self, fault: Callable[[str, int], int | None] = lambda _text, _before: None) -> None:
        self.fault = fault
        self.files: dict[str, str] = {}
        """Contents by id; one that is taken out has been deleted."""
        self.batches: list[dict[str, Any]] = []
        self.asked: Counter[str] = Counter()
        self.directly = 0
        self.hold = self.begun = self.cut = self.stored = 0
        """Looks at a batch at which it is not done yet; batches begun; beginnings whose answer is cut off."""
        self.ends, self.answers = "completed", 10**9
        """The status in which batches end, and how many lines each answers by then."""
        self.spoilt: set[str] = set()
        """Judged responses whose line is cut off in the middle, the first time."""
        self.usage: dict[str, int] | None = None
        """What each answer says instead of its usage."""
        self.seen: Counter[str] = Counter()
        self.trouble: Callable[[str, int], int] = lambda _path, _before: 200
        """Told each path and how often it was asked for; returns an HTTP status."""
        self.pieces, self.pause = 1, 0.0
        """In which a file of answers is sent, and the seconds between two."""
        self.arrived, self.lock = threading.Event(), threading.Lock()
        outer = self

        class Handler(QuietHandler):
            disable_nagle_algorithm = True  # or a body waits 40 ms for the other end to have its head

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.send(self, lambda: outer.post(self.path, body))

            def do_GET(self) -> None:
                outer.send(self, lambda: outer.get(self.path))

        self.serve(Handler)

    def send(self, handler: BaseHTTPRequestHandler, told: Callable[[], str]) -> None:
        with self.lock:
            status = self.trouble(handler.path, self.seen[handler.path])
            self.seen[handler.path] += 1
            text = told() if status == 200 else "injected"
        body, number = text.encode(), self.pieces if text.startswith("{") and handler.path.endswith("/content") else 1
        if not body:
            handler.close_connection = True
            return
        handler.send_response(404 if text == _GONE else status)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        for i in range(number):
            time.sleep(self.pause if i else 0.0)
            handler.wfile.write(body[len(body) * i // number : len(body) * (i + 1) // number])
            handler.wfile.flush()

    def post(self, path: str, body: bytes) -> str:
        if path == "/v1/files":
            match = re.search(rb'filename="requests.jsonl".*?\r\n\r\n(.*)\r\n--', body, re.DOTALL)
            assert match is not None
            assert b'name="purpose"' in body
            return json.dumps({"id": self.store(match[1].decode())})
        payload = json.loads(body)
        if path == "/v1/batches":
            return self.begin(payload)
        self.directly += 1
        return json.dumps(self.answered(payload)[1])

    def store(self, text: str) -> str:
        self.stored += 1
        self.files[name := f"file-{self.stored}"] = text
        return name

    def begin(self, payload: dict[str, Any]) -> str:
        assert (payload["endpoint"], payload["completion_window"]) == ("/v1/chat/completions", "24h")
        self.begun += 1
        batch = {"id": f"batch-{self.begun}", "status": "in_progress", "looks": 0, **payload}
        self.batches.insert(0, batch)
        self.arrived.set()
        if self.begun <= self.cut:
            return ""
        return json.dumps(batch)

    def get(self, path: str) -> str:
        if path.startswith("/v1/batches?"):
            after = re.search("after=(batch-\\d+)", path)
            names = [batch["id"] for batch in self.batches]
            start = names.index(after[1]) + 1 if after else 0
            page = self.batches[start : start + 2]  # small pages: the second must be asked for
            return json.dumps({"data": page, "has_more": start + 2 < len(self.batches)})
        if path.startswith("/v1/batches/"):
            (batch,) = (batch for batch in self.batches if batch["id"] == path.rpartition("/")[2])
            batch["looks"] += 1
            if batch["status"] == "in_progress" and batch["looks"] > self.hold:
                self.end(batch)
            return json.dumps(batch)
        return self.files.get(path.split("/")[3], _GONE) or "\n"

    def end(self, batch: dict[str, Any]) -> None:
        done: dict[str, list[str]] = {"output": [], "error": []}
        for number, line in enumerate(self.files[batch["input_file_id"]].split("\n")[:-1]):
            asked = json.loads(line)
            assert (asked["method"], asked["url"]) == ("POST", "/v1/chat/completions")
            kind = "error"
            told: dict[str, Any] = {"response": None, "error": {"code": f"batch_{self.ends}"}}
            if number < self.answers:
                status, body = self.answered(asked["body"], batched=True)
                kind, told = "output" if status == 200 else "error", {"response": {"status_code": status, "body": body}}
            text = json.dumps({"custom_id": asked["custom_id"], "error": None} | told, ensure_ascii=False)
            first = self.asked[_judged(asked["body"])] == 1
            cut = first and _judged(asked["body"]) in self.spoilt
            done[kind].insert(0, text[: len(text) // 2] if cut else text)  # in no order, as the real ones
        batch |= {f"{kind}_file_id": self.store("\n".join(lines)) for kind, lines in done.items()}
        batch["status"] = self.ends

    def answered(self, payload: dict[str, Any], *, batched: bool = False) -> tuple[int, dict[str, Any]]:
        text = _judged(payload)
        before = self.asked[text]
        self.asked[text] += batched
        if status := self.fault(text, before) if batched else None:
            return status, {"error": {"message": "injected"}}
        said = answer(payload, text) | {"note": "all that some take for the end of a line: \u2028, \u2029, \x85"}
        return 200, said | ({"usage": self.usage} if self.usage else {})


def _judged(payload: dict[str, Any]) -> str:
    match = RESPONSE.search(payload["messages"][-1]["content"])
    return match[1] if match else ""
