"""What an engine may use of a card: nothing that its process was not given, and what others have let go of."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from trace_ray.config import JudgeConfig
from trace_ray.judges.vllm_judge import judge_engine_settings
from trace_ray.model import card
from trace_ray.model.engine import Engine
from trace_ray.model.engine_process import prepare_process

CARDS = "CUDA_VISIBLE_DEVICES"


@pytest.mark.parametrize(
    ("gpus", "engine", "seen"),
    [
        (0.0, {}, ""),
        (1.0, {}, "3"),
        (None, {}, "3"),
        (0.0, {"distributed_executor_backend": "ray"}, "3"),  # its workers have GPUs of their own
    ],
)
def test_an_engine_without_a_gpu_sees_none(
    monkeypatch: pytest.MonkeyPatch, gpus: float | None, engine: dict[str, Any], seen: str
) -> None:
    monkeypatch.setattr(os, "environ", os.environ | {CARDS: "3"})
    prepare_process(gpus=gpus, kv_cache_gib=1.0, num_cpus=1.0, engine=engine)
    assert os.environ[CARDS] == seen


def test_a_judge_s_engine_is_told_the_gpus_of_its_actor() -> None:
    judges = [JudgeConfig(model="m", num_gpus=number) for number in (0, 0.5, 4)]
    assert [judge_engine_settings(judge).gpus for judge in judges] == [0, 0.5, 4]
    assert judge_engine_settings(JudgeConfig(model="m")).gpus is None  # nobody has resolved it: what there is


SMI = """#!/bin/sh
echo "$*" >> {log}
n=$(wc -l < {log})
if [ $n -lt 3 ]; then echo "20000, 80000"; else echo "76000, 80000"; fi
echo "79000, 80000"
"""


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose first card is three quarters full until it is looked at a third time."""
    log, script = tmp_path / "asked", tmp_path / "nvidia-smi"
    script.write_text(SMI.format(log=log))
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv(CARDS, "0,1")
    monkeypatch.setattr(card, "_PAUSE_S", 0.0)
    return log


def test_an_engine_waits_until_the_one_before_has_let_go(smi: Path) -> None:
    assert card.wait_for_memory(0.92)
    assert len(smi.read_text().splitlines()) == 3
    assert all(line.endswith("-i 0,1") for line in smi.read_text().splitlines())


def test_it_does_not_wait_for_ever_nor_for_what_is_not_known(smi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not card.wait_for_memory(0.99, patience_s=0.0)
    monkeypatch.setenv(CARDS, "")
    assert card.wait_for_memory(0.99, patience_s=0.0)
    monkeypatch.setenv(CARDS, "0")
    (smi.parent / "nvidia-smi").write_text("#!/bin/sh\necho '[N/A], [N/A]'\n")
    assert card.wait_for_memory(0.99, patience_s=0.0)
    monkeypatch.setenv("PATH", str(smi.parent / "nowhere"))
    assert card.wait_for_memory(0.99, patience_s=0.0)


class Core:
    def __init__(self) -> None:
        self.ended = 0
        self.engine_core = self

    def shutdown(self) -> None:
        self.ended += 1


def test_an_engine_that_nobody_holds_is_shut_down_once() -> None:
    core = Core()
    llm = type("Llm", (), {"llm_engine": core})()
    engine = Engine.__new__(Engine)
    engine.llm = llm
    engine.close()
    assert (core.ended, engine.llm) == (1, None)
    del engine
    assert core.ended == 1
    engine = Engine.__new__(Engine)
    engine.llm = llm
    del engine
    assert core.ended == 2
    Engine.__new__(Engine).close()  # one that never started
