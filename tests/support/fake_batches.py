"""An OpenAI-compatible endpoint on loopback that takes batch files, with the list, files and states of the real ones."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.support.fake_endpoint import RESPONSE, answer
from tests.support.local_server import LocalServer, QuietHandler


class FakeBatches(LocalServer):
    """Serves until closed; requests outside batches are answered too.

    Args:
        fault: told each judged response and how often a batch had it before; returns the status of a line that fails.
    """

    def __init__(self, fault: Callable[[str, int], int | None] = lambda _text, _before: None) -> None:
        self.fault = fault
        self.files: dict[str, str] = {}
        self.batches: list[dict[str, Any]] = []
        self.asked: Counter[str] = Counter()
        self.directly = 0
        self.hold = self.begun = self.cut = 0
        """Looks at a batch at which it is not done yet; batches begun; beginnings whose answer is cut off."""
        self.arrived, self.lock = threading.Event(), threading.Lock()
        outer = self

        class Handler(QuietHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.send(self, outer.post(self.path, body))

            def do_GET(self) -> None:
                outer.send(self, outer.get(self.path))

        self.serve(Handler)

    def send(self, handler: BaseHTTPRequestHandler, told: str) -> None:
        if not told:
            handler.close_connection = True
            return
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(told.encode())))
        handler.end_headers()
        handler.wfile.write(told.encode())

    def post(self, path: str, body: bytes) -> str:
        with self.lock:
            if path == "/v1/files":
                match = re.search(rb'filename="requests.jsonl".*?\r\n\r\n(.*)\r\n--', body, re.DOTALL)
                assert match is not None
                assert b'name="purpose"' in body
                self.files[f"file-{len(self.files)}"] = match[1].decode()
                return json.dumps({"id": f"file-{len(self.files) - 1}"})
            payload = json.loads(body)
            if path == "/v1/batches":
                return self.begin(payload)
            self.directly += 1
            return json.dumps(self.answered(payload)[1])

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
        with self.lock:
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
                    self.complete(batch)
                return json.dumps(batch)
            return self.files[path.split("/")[3]] or "\n"

    def complete(self, batch: dict[str, Any]) -> None:
        done: dict[str, list[str]] = {"output": [], "error": []}
        for line in self.files[batch["input_file_id"]].splitlines():
            asked = json.loads(line)
            assert (asked["method"], asked["url"]) == ("POST", "/v1/chat/completions")
            status, body = self.answered(asked["body"], batched=True)
            told = {"custom_id": asked["custom_id"], "response": {"status_code": status, "body": body}, "error": None}
            done["output" if status == 200 else "error"].insert(0, json.dumps(told))  # in no order, as the real ones
        for kind, lines in done.items():
            self.files[name := f"file-{len(self.files)}"] = "\n".join(lines)
            batch[f"{kind}_file_id"] = name
        batch["status"] = "completed"

    def answered(self, payload: dict[str, Any], *, batched: bool = False) -> tuple[int, dict[str, Any]]:
        match = RESPONSE.search(payload["messages"][-1]["content"])
        text = match[1] if match else ""
        before = self.asked[text]
        self.asked[text] += batched
        status = self.fault(text, before) if batched else None
        return (status, {"error": {"message": "injected"}}) if status else (200, answer(payload, text))
