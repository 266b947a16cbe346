"""The model card and its way to a hub: the hub's own client against a fake hub on this machine."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData

from tests.report.made_run import AUDIT, MadeRun, config_of
from trace_ray.errors import UserError
from trace_ray.realign.hub import hub_card, push_to_hub


class FakeHub(ThreadingHTTPServer):
    """Keeps what is committed; ``refuses`` every request where it is told to."""

    refuses = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Hub)
        self.files: dict[str, bytes] = {}
        self.made: list[dict[str, Any]] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Hub(BaseHTTPRequestHandler):
    server: FakeHub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.server.refuses:
            self._say(403, {"error": "no right to write here"})
        elif self.path == "/api/repos/create":
            self.server.made.append(json.loads(body))
            self._say(200, {"url": f"{self.server.endpoint}/me/realigned"})
        elif "/preupload/" in self.path:
            asked = json.loads(body)["files"]
            files = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in asked]
            self._say(200, {"files": files})
        elif "/commit/" in self.path:
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.server.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            self._say(
                200, {"commitUrl": f"{self.server.endpoint}/me/realigned/commit/1", "commitOid": "1", "success": True}
            )
        else:
            self._say(200, {"errors": [], "warnings": []})

    def do_GET(self) -> None:
        self._say(200, {"id": "me/realigned", "sha": "1", "siblings": []})

    def _say(self, code: int, what: dict[str, Any]) -> None:
        body = json.dumps(what).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _their_hub(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """As HF_ENDPOINT does for a process that starts with it."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.endpoint)


@pytest.fixture
def made(tmp_path: Path) -> MadeRun:
    run = MadeRun(tmp_path / "run")
    run.everything(AUDIT)
    for folder, name in (("merged", "config.json"), ("merged", "README.md"), ("adapter", "adapter_config.json")):
        (run.run.model.place / folder / name).write_text(f"{folder} {name}")
    return run


def test_model_adapter_and_card_reach_the_hub(hub: FakeHub, made: MadeRun) -> None:
    config = config_of(f"model.path={made.folder}")
    address = push_to_hub(made.run, config, "me/realigned")
    assert address.endswith("me/realigned")
    assert hub.made[0]["name"] == "realigned"
    assert hub.made[0].get("visibility") == "private" or hub.made[0].get("private") is True
    assert hub.files["config.json"] == b"merged config.json"
    assert hub.files["adapter/adapter_config.json"] == b"adapter adapter_config.json"
    assert hub.files["README.md"].decode() == hub_card(made.run, config, "me/realigned")
    assert set(hub.files) == {"config.json", "adapter/adapter_config.json", "README.md"}


def test_a_hub_that_refuses_is_a_users_mistake(hub: FakeHub, made: MadeRun) -> None:
    hub.refuses = True
    with pytest.raises(UserError, match="the hub refused"):
        push_to_hub(made.run, config_of(f"model.path={made.folder}"), "me/realigned")
    with pytest.raises(UserError, match="--to"):
        push_to_hub(made.run, config_of(f"model.path={made.folder}"), "no/such/name")


def test_the_card_is_read_by_the_hubs_own_client(made: MadeRun) -> None:
    """Figures are those of metrics.json; the client turns model-index into one result a metric."""
    card = ModelCard(hub_card(made.run, config_of(f"model.path={made.folder}"), "me/realigned"))
    data = card.data
    assert isinstance(data, ModelCardData)
    metrics = json.loads((made.run.evaluation.place / "metrics.json").read_text())
    found = {result.metric_name: result.metric_value for result in data.eval_results or []}
    assert found == {
        f"Target policy agreement, %, {group}": round(value, 2) for group, value in metrics["tpa"]["realigned"].items()
    }
    assert data.model_name == "realigned"
    for title in ("## Intended use", "## Results", "## Limits", "## How it was made"):
        assert title in card.text
    row = f"| all | {metrics['n']['all']} | {metrics['tpa']['base']['all']:.1f} | {metrics['tpa']['realigned']['all']:.1f} |"
    assert row in card.text
    for said in ("Drift from the base was not measured", "Attacks were not measured", "Fewer than 30 prompts"):
        assert said in card.text


def test_a_model_that_was_not_evaluated_says_so(tmp_path: Path) -> None:
    made = MadeRun(tmp_path / "run")
    made.triage()
    made.impact()
    made.realign()
    card = hub_card(made.run, config_of(f"model.path={tmp_path}"), "me/realigned")
    assert "model-index" not in yaml.safe_load(card.split("---\n")[1])
    assert "It was not evaluated." in card
