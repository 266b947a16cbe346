"""The folder of a verdict store changes with all that a verdict depends on, and with nothing else."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

import trace_ray
from trace_ray.config.load import load_config
from trace_ray.config.sources import conf_folder
from trace_ray.errors import UserError
from trace_ray.runs import identity
from trace_ray.triage.stores import verdict_stores

JUDGE = Path(trace_ray.__file__).parent / "synth" / "models" / "judge"
POLICY = conf_folder() / "policies" / "synth_new.yaml"


def folder(model: Path, *more: str) -> str:
    given = [f"triage.judge.model='{model}'", "triage.verdict_store=/tmp/store", *more]
    return verdict_stores(load_config([POLICY], given))["judge"].name


def test_from_where_clauses_are_named_counts_and_the_threshold_does_not() -> None:
    plain = [folder(JUDGE, f"triage.threshold={t}", f"triage.clauses_from={t}") for t in (0.5, 0.6)]
    named = [folder(JUDGE, f"triage.clauses_from={t}", "triage.clauses=true") for t in (0.5, 0.6)]
    assert len({*plain}) == 1
    assert len({*plain, *named}) == 3


def test_the_rendered_prompt_counts(tmp_path: Path) -> None:
    """Of one and the same files: a template that writes the day asks something else tomorrow."""
    dated = shutil.copytree(JUDGE, tmp_path / "dated")
    template = dated / "chat_template.jinja"
    template.write_text("{{ strftime_now('%d %B') }} " + template.read_text())
    today, tomorrow = (f"triage.judge.chat_template_date='2026-11-{day}'" for day in (27, 28))
    assert folder(dated, today) == folder(dated, today) != folder(dated, tomorrow)
    assert folder(JUDGE, today) == folder(JUDGE, tomorrow), "a template without the day asks the same"


def test_a_judge_without_a_template_is_named(tmp_path: Path) -> None:
    bare = shutil.copytree(JUDGE, tmp_path / "bare")
    (bare / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer = json.loads((bare / "tokenizer_config.json").read_text())
    tokenizer.pop("chat_template", None)
    (bare / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UserError, match=r"^triage.judge.model: .*bare: its tokenizer has no chat template"):
        folder(bare)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A hub of one model, whose branch ``main`` is at ``head``, or which fails where there is none."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            head = self.server.head  # type: ignore[attr-defined]
            body = json.dumps({"id": "org/name", "sha": head}).encode()
            self.send_response(200 if head else 503)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    from huggingface_hub import constants

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    yield server
    server.shutdown()


def test_a_branch_is_known_by_its_commit(hub: Any, tmp_path: Path) -> None:
    hub.head = "a" * 40
    assert identity.commit_of("org/name", "main") == "a" * 40
    hub.head = "b" * 40
    assert identity.commit_of("org/name", "main") == "b" * 40
    assert identity.commit_of("org/name", "c" * 40) == "c" * 40
    hub.head = ""
    assert identity.commit_of("org/name", "main") is None
    refs = tmp_path / "hub" / "models--org--name" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text("d" * 40)
    assert identity.commit_of("org/name", "main") == "d" * 40


def test_a_store_refuses_a_branch_of_which_nobody_tells_the_commit(hub: Any) -> None:
    hub.head = ""
    with pytest.raises(UserError, match=r"^triage.judge.revision: main: the hub does not tell its commit"):
        folder(Path("org/name"))
