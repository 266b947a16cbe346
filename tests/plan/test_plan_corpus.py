"""The plan of real files with the shipped tokenizers: counts as triage would find them, and every problem at once."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from trace_ray.cli.app import app
from trace_ray.config import StorageConfig
from trace_ray.config.load import load_config
from trace_ray.config.sources import conf_folder
from trace_ray.pairs import categorise
from trace_ray.plan import checks, probe_training
from trace_ray.plan.plan import make_plan
from trace_ray.plan.probe_training import measure_training
from trace_ray.storage.location import locate
from trace_ray.synth.demo import write_corpus
from trace_ray.synth.oracle import violates

DEMO = conf_folder() / "examples" / "demo.yaml"
GIVEN = [
    "plan.measure=false",
    "plan.judge_tokens_s=20000",
    "plan.answer_tokens_s=1000",
    "plan.forward_tokens_s=10000",
    "plan.train_tokens_s=5000",
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_corpus(locate(str(tmp_path_factory.mktemp("corpus")), StorageConfig()))


def true_categories(corpus: list[str]) -> Counter[str]:
    """The training pairs by category, by the world's oracle and not by the policy's rules."""
    train = Path(corpus[0].split("'")[1])
    rows = [json.loads(line) for line in train.read_text().splitlines()]
    bits = [[not violates(row["prompt"], row[name]) for name in ("chosen", "rejected")] for row in rows]
    return Counter(categorise(*sides).value for sides in bits)


def test_a_whole_read_corpus_is_counted_exactly(corpus: list[str]) -> None:
    made = make_plan(load_config([DEMO], [*corpus, *GIVEN, "plan.sample_rows=5000"]), None)
    assert made.problems == []
    assert made.load is not None
    assert dict(made.load.trained) == dict(true_categories(corpus))
    assert (made.load.rows, made.load.prompts.number) == (1028, 128)
    assert [stage.stage for stage in made.stages] == ["triage", "impact", "realign", "evaluate"]


def test_a_sample_is_near(corpus: list[str]) -> None:
    made = make_plan(load_config([DEMO], [*corpus, *GIVEN, "plan.sample_rows=300"]), None)
    assert made.load is not None
    assert made.sampled == 300 + 128
    for name, number in true_categories(corpus).items():
        assert made.load.trained[name] == pytest.approx(number, rel=0.35)
    assert sum(made.load.trained.values()) == pytest.approx(900, abs=2)


def test_broken_rows_are_expected_to_be_refused(tmp_path: Path, corpus: list[str]) -> None:
    good = [json.dumps({"prompt": f"p {i}", "chosen": "yes", "rejected": "no"}) for i in range(30)]
    (tmp_path / "pairs.jsonl").write_text("\n".join([*good, *["{broken"] * 10]) + "\n")
    overrides = [*corpus, f"corpus.paths=['{tmp_path / 'pairs.jsonl'}']", "corpus.test_paths=[]", *GIVEN]
    made = make_plan(load_config([DEMO], overrides), None)
    assert made.load is not None
    assert (made.load.rows, made.load.refused) == (40, 10)


def test_every_problem_is_told_at_once() -> None:
    arguments = ["plan", "-c", str(DEMO), "corpus.paths=[/nowhere/pairs.jsonl]", "realign.workers=900"]
    arguments += ["triage.judge.model=/nowhere/judge", "realign.use_gpu=true", "--run", "/proc/run"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    lines = [line for line in result.stderr.splitlines() if line.startswith("trace-ray: ")]
    assert [line.split(": ")[1] for line in lines] == [
        "--run",
        "realign",
        "realign",
        "model.path",
        "corpus.paths",
        "triage.judge.model",
    ]
    assert len(set(lines)) == len(lines)


def test_what_a_manifest_cannot_hold_is_a_problem_of_the_plan(
    corpus: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "machine_memory_gib", lambda: 0.1)  # the cluster's is another
    manifest = conf_folder().parent / "clusters" / "base" / "gpu-job" / "gpu-job.yaml"
    arguments = ["plan", "-c", str(DEMO), *corpus, *GIVEN, f"plan.manifest={manifest}"]
    arguments += ["triage.judge.num_cpus=6", "triage.judge.num_gpus=1"]
    arguments += ["triage.judge.label_selector={trace-ray/pool: 'in(judge,trainer)'}"]
    arguments += ["impact.num_gpus=0", "realign.use_gpu=false", "evaluate.num_gpus=0", "evaluate.judge.num_gpus=0"]
    fits = CliRunner().invoke(app, [*arguments, "triage.judge.max_actors=44", "--json"])
    assert fits.exit_code == 0
    assert json.loads(fits.stdout)["stages"][0]["workers"] == 44
    asked = ["triage.judge.max_actors=45", "realign.num_cpus=90", "impact.num_cpus=80"]
    result = CliRunner().invoke(app, [*arguments, *asked])
    assert result.exit_code == 2
    nodes = (
        "cpu 8 x {CPU: 7, GPU: 0}, judge-spot 16 x {CPU: 7, GPU: 1}, judge-on-demand 4 x {CPU: 7, GPU: 1}, "
        "trainer-spot 4 x {CPU: 44, GPU: 4}, trainer-on-demand 2 x {CPU: 44, GPU: 4}"
    )
    small = f"no node is that large ({nodes}); ask for less or enlarge one"
    labelled = "the groups with labels {'trace-ray/pool': 'in(judge,trainer)'}"
    remedy = "lower it or raise maxReplicas"
    room = "(judge-spot 16, judge-on-demand 4, trainer-spot 16, trainer-on-demand 8)"
    assert [line for line in result.stderr.splitlines() if line.startswith("trace-ray: ")] == [
        f"trace-ray: triage.judge.max_actors: 45 x {{CPU: 6, GPU: 1}}: {labelled} hold 44 at most {room}; {remedy}",
        f"trace-ray: impact: 1 x {{CPU: 80, GPU: 0}}: {small}",
        f"trace-ray: realign.workers: 1 x {{CPU: 90, GPU: 0}}: {small}",
    ]


def test_a_manifest_says_what_auto_stands_for(corpus: list[str]) -> None:
    manifests = conf_folder().parent / "clusters" / "base"
    labels = [f"{name}.label_selector={{trace-ray/pool: trainer}}" for name in ("impact", "evaluate", "realign")]
    for job, gpus in (("gpu-job/gpu-job.yaml", True), ("cpu-job/cpu-job.yaml", False)):
        made = make_plan(load_config([DEMO], [*corpus, *GIVEN, *labels, f"plan.manifest={manifests / job}"]), None)
        used = {stage.stage: bool(stage.gpu_hours) for stage in made.stages}
        assert (used["impact"], used["realign"], used["triage"]) == (gpus, gpus, gpus)


def test_a_manifest_that_is_not_there_is_the_one_problem_of_resources(corpus: list[str]) -> None:
    overrides = [*corpus, *GIVEN, "plan.manifest=/nowhere/job.yaml", "realign.workers=900"]
    made = make_plan(load_config([DEMO], overrides), None)
    assert [problem.where for problem in made.problems] == ["plan.manifest"]


def test_a_policy_that_nothing_breaks_is_a_problem(tmp_path: Path, corpus: list[str]) -> None:
    rows = [json.dumps({"prompt": f"p {i}", "chosen": "short", "rejected": "word " * 60}) for i in range(20)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(rows) + "\n")
    overrides = [*corpus, f"corpus.paths=['{tmp_path / 'pairs.jsonl'}']", "corpus.test_paths=[]", *GIVEN]
    files = [DEMO, conf_folder() / "policies" / "brevity.yaml"]
    made = make_plan(load_config(files, overrides), None)
    assert ["no sampled pair conflicts" in str(problem) for problem in made.problems] == [True]


def test_the_table_and_json_of_a_plan_without_problems(corpus: list[str]) -> None:
    arguments = ["plan", "-c", str(DEMO), *corpus, *GIVEN, "plan.cpu_hour_price=0.1"]
    table = CliRunner().invoke(app, arguments)
    assert table.exit_code == 0, table.output
    for word in ("triage", "impact", "realign", "evaluate", "price"):
        assert word in table.stdout
    machine = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert [stage["stage"] for stage in machine["stages"]] == ["triage", "impact", "realign", "evaluate"]
    assert machine["problems"] == []


def test_an_endpoint_without_a_given_speed_says_so_and_its_tokens_are_counted(corpus: list[str]) -> None:
    url = "triage.judge.endpoint.base_url=http://127.0.0.1:1/v1"
    endpoint = ["triage.judge.backend=openai", "triage.judge.model=any", url, "plan.judge_tokens_s=0"]
    prices = ["plan.cpu_hour_price=0.1", "triage.judge.endpoint.prompt_price=3"]
    arguments = ["plan", "-c", str(DEMO), *corpus, *GIVEN, *endpoint, *prices]
    table = CliRunner().invoke(app, arguments)
    assert table.exit_code == 0, table.output
    assert "triage: not estimated: set plan.judge_tokens_s" in table.stdout
    assert "all but" in table.stdout
    assert "endpoints" in table.stdout
    assert "not estimated" not in CliRunner().invoke(app, [*arguments, "plan.judge_tokens_s=500"]).stdout
    triage, *others = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)["stages"]
    assert (triage["seconds"], triage["price"]) == (None, None)
    assert triage["tokens"] > 1028 * 2 * 20
    assert triage["endpoints"] == pytest.approx(3e-6 * triage["tokens"])
    assert all(stage["seconds"] > 0 for stage in others)


def test_the_probe_trains_what_the_run_trains(corpus: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_training, "SECONDS", {"forward": 0.0, "train": 0.0})
    rows = [{"prompt": [{"role": "user", "content": "hi"}], "chosen": "yes", "rejected": "no"}] * 4
    full = ["realign.tune=full", "realign.kl_reference=top_k"]
    adapter, whole = (measure_training(load_config([DEMO], [*corpus, *more]), rows, time.time()) for more in ([], full))
    assert whole.trained == whole.parameters
    assert 0 < adapter.trained == adapter.parameters - whole.parameters


@pytest.mark.slow
def test_the_pieces_are_measured_in_processes_of_their_own(corpus: list[str]) -> None:
    pieces: list[str] = []
    made = make_plan(load_config([DEMO], corpus), None, pieces.append)
    assert made.problems == []
    assert pieces == ["train", "scoring", "policy", "triage.judge"]
    assert made.rates is not None
    assert made.rates.train.forward_tokens_s > made.rates.train.train_tokens_s > 0
    assert made.rates.scoring.tokens_s > made.rates.scoring.gold_tokens_s > 0
    assert made.rates.scoring.peak_gib > made.rates.train.memory_gib / 2
    assert 0.3 < made.rates.judges["triage.judge"].memory_gib < 8
