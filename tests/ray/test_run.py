"""A whole run on a real local Ray, with vLLM, DeepSpeed and the shipped tiny models; then again, and after a change."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from trace_ray.chat.text import accepted
from trace_ray.config import StorageConfig
from trace_ray.config.load import load_config
from trace_ray.config.sources import conf_folder
from trace_ray.errors import StaleRunError
from trace_ray.model.loading import load_chat_tokenizer
from trace_ray.pipeline import run_stages
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import locate
from trace_ray.synth.demo import write_corpus

HANDLER = signal.getsignal(signal.SIGINT)
"""As it was before any run: Python's own, or none where a shell put the tests in the background."""

SMALL = ["impact.gold_size=9", "impact.shard_rows=37", "evaluate.prompts=16", "realign.learning_rate=1e-4"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, list[str]]:
    run = Run(locate(str(tmp_path_factory.mktemp("run")), StorageConfig()))
    corpus = run.place / "corpus"
    overrides = [*write_corpus(corpus), *SMALL]
    train = Path(corpus.path) / "train.jsonl"
    lines = train.read_text().splitlines()[:120]
    train.write_text("\n".join([*lines[:50], "{broken", *lines[50:], '{"prompt": "p", "chosen": ""}']) + "\n")
    run_stages(run, load_config([conf_folder() / "examples" / "demo.yaml"], overrides))
    return run, overrides


def test_no_row_is_lost(finished: tuple[Run, list[str]]) -> None:
    run, _ = finished
    counts = run.triaged.manifest()["counts"]
    assert counts["rows_in"] == 122 + 128
    assert counts["triaged"] + counts["rejects"] == counts["rows_in"]
    reasons = {row["reason"] for row in run.rejects.read().to_pylist()}
    assert reasons == {"broken_json", "missing_field"}
    rows = run.triaged.read(["row"])["row"].to_pylist()
    assert len(set(rows)) == len(rows) == counts["triaged"]


def test_the_judge_agrees_with_the_oracle(finished: tuple[Run, list[str]]) -> None:
    assert finished[0].triaged.manifest()["audit"]["agreement"] >= 0.95


def test_impact_weights_average_one(finished: tuple[Run, list[str]]) -> None:
    table = finished[0].scored.read(["category", "weight", "impact"]).to_pylist()
    conflicts = [row for row in table if row["category"] != "RETAIN"]
    assert sum(row["weight"] for row in conflicts) / len(conflicts) == pytest.approx(1.0)
    assert all((row["weight"] > 0) == (row["impact"] > 0) for row in conflicts)


def test_the_evaluation_holds_what_it_promises(finished: tuple[Run, list[str]]) -> None:
    run, _ = finished
    metrics = json.loads((run.evaluation.place / "metrics.json").read_text())
    rows = [r for p in (run.evaluation.place / "responses").files() for r in pq.read_table(p.path).to_pylist()]
    assert {"prompt", "model", "response", "compliant"} <= set(rows[0])
    for model in ("base", "realigned"):
        mine = [row["compliant"] for row in rows if row["model"] == model]
        assert metrics["tpa"][model]["all"] == pytest.approx(100 * sum(mine) / 16)
    assert metrics["n"]["all"] == 16
    assert run.report.read_text().count("<script") == 1


def test_evaluation_counts_what_its_models_read_and_wrote(finished: tuple[Run, list[str]]) -> None:
    """Rules judge here: the rest are both models' prompts, and answers of which all but the longest end with a token more."""
    run, overrides = finished
    config = load_config([conf_folder() / "examples" / "demo.yaml"], overrides)
    tokenizer = load_chat_tokenizer(config.model)
    rows = [r for p in (run.evaluation.place / "responses").files() for r in pq.read_table(p.path).to_pylist()]
    prompts = accepted(tokenizer.prompts([[{"role": "user", "content": row["prompt"]}] for row in rows]))
    asked = sum(map(len, prompts))
    answers = [tokenizer.tokenizer(row["response"], add_special_tokens=False)["input_ids"] for row in rows]
    ended = sum(len(answer) < config.evaluate.max_new_tokens for answer in answers)
    assert run.evaluation.manifest()["tokens"] == asked + sum(map(len, answers)) + ended


def test_the_merged_model_loads_in_plain_transformers(finished: tuple[Run, list[str]]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = finished[0].model.place.path + "/merged"
    AutoModelForCausalLM.from_pretrained(folder)
    assert AutoTokenizer.from_pretrained(folder).chat_template


def test_machines_are_told_what_people_are(finished: tuple[Run, list[str]]) -> None:
    run, overrides = finished
    demo = str(conf_folder() / "examples" / "demo.yaml")
    words = [sys.executable, "-m", "trace_ray.cli", "run", "-c", demo, "--run", run.place.uri, "--json", *overrides]
    told = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    assert told["evaluation"]["n"]["all"] == 16
    assert set(told["seconds"]) == {"triage", "impact", "realign", "evaluate"}
    assert told["report"] == run.report.uri


def test_running_again_redoes_nothing_and_a_change_is_refused(finished: tuple[Run, list[str]]) -> None:
    run, overrides = finished
    before = run.model.manifest()
    demo = [conf_folder() / "examples" / "demo.yaml"]
    run_stages(run, load_config(demo, overrides))
    assert run.model.manifest() == before
    with pytest.raises(StaleRunError, match=r"triage\.threshold"):
        run_stages(run, load_config(demo, [*overrides, "triage.threshold=0.4"]))


def test_the_drivers_interrupt_is_its_own_again(finished: tuple[Run, list[str]]) -> None:
    """Ray Train's handler, left behind, would break what a lost lock or Ctrl-C does in the stages after training."""
    assert finished
    assert signal.getsignal(signal.SIGINT) is HANDLER
