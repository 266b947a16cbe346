"""Why an engine did not start: mistakes by their settings, and what another try may not meet, from the real libraries."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import trace_ray
from trace_ray.config import JudgeConfig
from trace_ray.config.policy import PolicyConfig
from trace_ray.errors import EngineStartError, UserError
from trace_ray.judges.frames import Frames
from trace_ray.judges.vllm_judge import judge_engine_settings
from trace_ray.model.engine import Engine, EngineFailedError, _readable
from trace_ray.model.engine_start import EngineNames, start_fault
from trace_ray.runtime.passing import passing

JUDGE = Path(trace_ray.__file__).parent / "synth" / "models" / "judge"
NAMES = EngineNames.of_judge("triage.second_judge")


@pytest.fixture
def hub() -> Iterator[Any]:
    """Answers every request with ``status``."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(self.server.status)  # type: ignore[attr-defined]
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def asked_of(endpoint: str) -> Exception:
    """What the hub's own client raises there."""
    from huggingface_hub import HfApi

    with pytest.raises(Exception) as caught:  # noqa: PT011  whatever it is
        HfApi(endpoint=endpoint).model_info("org/name", timeout=5)
    return caught.value


@pytest.mark.parametrize(("status", "passes"), [(503, True), (429, True), (404, False), (401, False)])
def test_a_hubs_answer_tells_an_outage_from_a_mistake(hub: Any, status: int, passes: bool) -> None:
    hub.status = status
    error = asked_of(f"http://127.0.0.1:{hub.server_port}")
    assert passing(error) is passes
    fault = start_fault(error, NAMES, "org/name", 512)
    assert isinstance(fault, EngineStartError) is passes
    assert str(fault).startswith("triage.second_judge.model: org/name: ")


def test_a_hub_that_is_not_reached_may_be_later() -> None:
    assert passing(asked_of("http://127.0.0.1:1"))


@pytest.mark.parametrize(
    ("said", "where"),
    [
        ("Free memory on device cuda:0 (3.1/79.2 GiB) on startup is less than desired", None),
        (
            "To serve at least one request with the model's max seq len (4096), 2 GiB KV cache is needed",
            "max_model_len",
        ),
        ("User-specified max_model_len (99) is greater than the derived max_model_len (64)", "max_model_len"),
        ("No CUDA GPUs are available", "num_gpus"),
        ("Model architectures ['Odd'] are not supported for now", "model"),
    ],
)
def test_what_vllm_says_names_the_setting(said: str, where: str | None) -> None:
    fault = start_fault(ValueError(said), NAMES, "m", 99)
    assert isinstance(fault, EngineStartError) is (where is None)
    assert fault is not None
    assert fault.where == f"triage.second_judge.{where or 'model'}"


def test_what_nobody_foresaw_stays_what_it_is() -> None:
    assert start_fault(RuntimeError("assertion in a kernel"), NAMES, "m", 99) is None


def test_a_missing_copy_is_named_by_its_setting() -> None:
    fault = start_fault(UserError("URI", "s3://b/m", "no model there"), NAMES, "s3://b/m", 99)
    assert str(fault) == "triage.second_judge.model: s3://b/m: no model there"


@pytest.mark.parametrize("error", [TimeoutError("RPC call to execute_model timed out."), EOFError(), RuntimeError("x")])
def test_an_engine_that_breaks_ends_its_process_not_the_run(error: Exception) -> None:
    def breaks(*_: Any, **__: Any) -> Any:
        raise error

    engine = object.__new__(Engine)
    engine.llm, engine.tokens = SimpleNamespace(generate=breaks), 0
    engine.busy_s, engine.waited_s, engine._ended = 0.0, 0.0, None
    with pytest.raises(EngineFailedError):
        engine.generate([[1]], 1)


def test_another_tokenizer_than_transformers_is_read_anew() -> None:
    from transformers import PreTrainedTokenizerBase

    settings = judge_engine_settings(JudgeConfig(model=str(JUDGE)), "triage.judge")
    tokenizer = _readable(object(), settings)  # as vLLM gives Mistral's own
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    assert _readable(tokenizer, settings) is tokenizer


def test_a_judge_without_a_chat_template_is_one_line() -> None:
    tokenizer = SimpleNamespace(chat_template=None, name_or_path="base")
    frames = Frames(tokenizer, PolicyConfig(text="x"), JudgeConfig(model="base"), "triage.judge", with_ids=False)
    with pytest.raises(UserError, match=r"^triage.judge.model: base: its tokenizer has no chat template"):
        frames.asked()


@pytest.mark.slow
def test_a_real_engine_names_what_is_wrong(tmp_path: Path) -> None:
    """One process a mistake: vLLM is in no state to be asked again after one."""
    broken = shutil.copytree(JUDGE, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes((JUDGE / "model.safetensors").read_bytes()[:5000])
    code = (
        "import sys\n"
        "from trace_ray.config import JudgeConfig\n"
        "from trace_ray.judges.vllm_judge import VllmJudge\n"
        "from trace_ray.config.policy import PolicyConfig\n"
        "config = JudgeConfig(model=sys.argv[1], max_model_len=int(sys.argv[2]))\n"
        "try: VllmJudge(PolicyConfig(text='x'), config, where='triage.judge')\n"
        "except Exception as error: print(type(error).__name__, error.where)"
    )
    for model, length, said in ((broken, 512, "triage.judge.model"), (JUDGE, 10**6, "triage.judge.max_model_len")):
        command = [sys.executable, "-c", code, str(model), str(length)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        assert done.stdout.splitlines()[-1:] == [f"UserError {said}"], done.stderr[-2000:]
