"""The GPU check itself, on the CPU: parts with a tiny model, and a runner that goes on where one fails."""

from __future__ import annotations

import argparse
import gzip
import json
import math
import sys
import time
from pathlib import Path

import pytest

from tests.gpu import check, part_judge, part_numbers, part_score, part_train, shapes, weights
from tests.gpu.figures import told
from trace_ray.synth.demo import MODELS


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """Options of a tiny check on pairs of its own; what parts change in their process is put back."""
    import transformers

    auto = transformers.AutoModelForCausalLM
    monkeypatch.setattr(auto, "from_pretrained", auto.from_pretrained)
    for variable in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(variable, "")
    monkeypatch.setitem(shapes.SHAPES["tiny"], "vocab_size", 1024)
    rows = [
        {"prompt": f"where is gate {i}?", "chosen": f"it is on the left, past {i}", "rejected": "no"} for i in range(6)
    ]
    place = tmp_path / "pairs.jsonl.gz"
    place.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    monkeypatch.setenv("TR_TOK", str(MODELS / "policy"))
    monkeypatch.setenv("TR_PAIRS", str(place))
    return check.arguments(["--shape", "tiny", "--pairs", "6", "--batch", "2", "--families", "llama"])


def test_scores_are_counted_and_timed(tiny: argparse.Namespace, capsys: pytest.CaptureFixture[str]) -> None:
    assert part_score.measure(tiny)
    found = told(capsys.readouterr().out)
    assert found["pairs"] == 6
    assert 0 < found["score"]["tokens_run"] < found["tokens"] == found["forward"]["tokens_run"]
    assert found["score"]["pairs_per_s"] == pytest.approx(6 / found["score"]["seconds"], rel=1e-3)


def test_numbers_of_a_family_are_within_the_limits(
    tiny: argparse.Namespace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part_numbers, "SPANS", [(4, 10), (12, 20)])
    monkeypatch.setattr(part_numbers, "BF16_RATIO", 10.0)  # of two pairs bfloat16's largest errors say little
    assert part_numbers.measure(tiny)
    found = told(capsys.readouterr().out)["llama"]
    assert 0 < found["fp32_flat"]["s"] < 1e-5 < found["bf16_one_by_one"]["s"]
    # A second response that sees the first one's tokens.
    monkeypatch.setattr("trace_ray.model.packing._visible", _all_before)
    assert not part_numbers.measure(tiny)


def _all_before(segment_BT: object) -> object:
    import torch

    length = segment_BT.shape[1]  # type: ignore[attr-defined]
    hidden = torch.full((length, length), torch.finfo(torch.float32).min).triu(1)
    return hidden.expand(segment_BT.shape[0], 1, length, length)  # type: ignore[attr-defined]


def test_training_starts_at_ln_2(tiny: argparse.Namespace, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    try:
        assert part_train.measure(tiny)
    finally:
        torch.distributed.destroy_process_group()
    found = told(capsys.readouterr().out)
    assert found["steps"] == 2
    assert found["first_loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert found["tokens"] > found["tokens_run"] > 0


def test_a_part_that_fails_or_is_late_keeps_what_it_told(tmp_path: Path) -> None:
    said = "print('RESULT {\"pairs\": 3}', flush=True)"
    failed = check.run_part([sys.executable, "-c", f"{said}; raise ValueError('no weights')"], tmp_path / "log", 60)
    assert (failed["ok"], failed["pairs"], failed["error"]) == (False, 3, "exit code 1: ValueError: no weights")
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
    started = time.monotonic()
    late = check.run_part([sys.executable, "-c", f"{said}; {child}"], tmp_path / "log", 2)
    assert (late["ok"], late["error"]) == (False, "over its limit of 2 s")
    assert time.monotonic() - started < 60
    assert check.run_part(["false"], tmp_path / "log", -3)["error"].startswith("not run")


def test_all_parts_have_one_time_together(
    tiny: argparse.Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that a part moves by as much as it takes: the second has what the first left, the third nothing."""
    now, given = [0.0], list[float]()
    monkeypatch.setattr("tests.gpu.check.time.monotonic", lambda: now[0])

    def took_200_s(_command: object, _log: object, limit: float) -> dict[str, object]:
        given.append(limit)
        now[0] += 200
        return {"ok": True}

    monkeypatch.setattr(check, "run_part", took_200_s)
    words = ["--shape", "tiny", "--parts", "judge,pipeline,score", "--out", str(tmp_path / "out")]
    check.main(words)
    assert given == [check.LIMITS["judge"], 160, -40]


def test_a_machine_without_a_gpu_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "card_name", lambda: None)
    assert check.main(["--parts", "score"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_last_line_is_one_object_of_all_parts(
    tiny: argparse.Namespace, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"score": {"ok": True}, "train": {"ok": False, "error": "exit code 1"}}
    monkeypatch.setattr(check, "run_part", lambda command, *_: found[command[-1]])
    assert check.main(["--shape", "tiny", "--parts", "score,train", "--out", str(tmp_path / "out")]) == 1
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["parts"] == found
    assert {"card", "shape", "set", "versions"} < last.keys()
    assert json.loads((tmp_path / "out" / "check.json").read_text()) == last


def test_weights_on_disk_are_a_model_of_the_shape(tiny: argparse.Namespace, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    config = shapes.llama("tiny")
    weights.write_model(str(tmp_path), config, shapes.tokenizer_folder())
    found = load_file(tmp_path / "model.safetensors")
    assert {name: tuple(value.shape) for name, value in found.items()} == weights.shapes(config)
    assert sum(2 * value.numel() for value in found.values()) == weights.bf16_bytes(config)
    assert found["model.norm.weight"].unique().tolist() == [1.0]
    deep = found["model.layers.1.mlp.up_proj.weight"].float()
    assert float(deep.std()) == pytest.approx(0.02, rel=0.05)
    assert not torch.equal(deep, found["model.layers.0.mlp.up_proj.weight"].float())


def test_the_judges_rates_are_over_its_own_time() -> None:
    used = {"engine_ms": 9_000, "engine_waited_ms": 1_000, "judged_prompts": 400, "judged_tokens": 400_000}
    manifest = {"used": used, "counts": {"triaged": 180}, "prefix_cache_hit_rate": 0.75, "engine_busy_share": 0.9}
    found = part_judge.judged(manifest, 10)
    assert found["pairs_per_s"] == 20.0
    assert (found["prompt_tokens_per_s"], found["computed_tokens_per_s"]) == (40_000.0, 10_000.0)
