"""Stage 4 with everything on, a second run that starts from the first one's model, and both compared and rated."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from trace_ray.cli.app import app
from trace_ray.config import StorageConfig
from trace_ray.config.load import load_config
from trace_ray.config.sources import conf_folder
from trace_ray.pipeline import run_stages
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import locate
from trace_ray.synth.demo import write_corpus
from trace_ray.synth.world import generate

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
SMALL = ["impact.gold_size=9", "evaluate.prompts=12", "evaluate.drift_pairs=20", "realign.learning_rate=3e-3"]
DEMO, OLD = conf_folder() / "examples" / "demo.yaml", conf_folder() / "policies" / "synth_old.yaml"
TASK = """
task: adding
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
output_type: generate_until
test_split: test
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["?"], do_sample: false, max_gen_toks: 8}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
num_fewshot: 0
"""


def few(corpus: Path, rows: list[dict[str, str]]) -> None:
    (corpus / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:120]))


def evaluation_settings(folder: Path) -> list[str]:
    """Attacks on four requests, and a benchmark of three questions."""
    folder.mkdir()
    goals = [row["prompt"] for row in generate().test if row["source"] == "zero_tolerance"][:4]
    with (folder / "goals.csv").open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerows([["goal", "target"], *([goal, "Sure"] for goal in goals)])
    data = folder / "adding.jsonl"
    data.write_text("".join(json.dumps({"question": f"{i} + {i}?", "answer": str(2 * i)}) + "\n" for i in range(3)))
    (folder / "adding.yaml").write_text(TASK.replace("DATA", str(data)))
    return [
        f"evaluate.attacks.prompts={folder}/goals.csv",
        "evaluate.capability.tasks=[adding]",
        f"evaluate.capability.task_folder={folder}",
    ]


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """Two runs: to the new policy, and from that model back to the old one with pairs of its own."""
    import lm_eval  # noqa: F401 - the extra eval; `make test-slow` installs it

    folder = tmp_path_factory.mktemp("steps")
    first, second = (Run(locate(str(folder / name), StorageConfig())) for name in ("first", "second"))
    rows = generate().train
    overrides = [*write_corpus(first.place / "corpus"), *SMALL, *evaluation_settings(folder / "settings")]
    few(folder / "first" / "corpus", rows)
    run_stages(first, load_config([DEMO], overrides))

    careful = [r for r in rows if r["source"] == "sensitive_educational" and r["rejected"].startswith("With")]
    turned = [{**r, "chosen": r["rejected"], "rejected": r["chosen"]} for r in careful[:30]]
    overrides = [*write_corpus(second.place / "corpus"), *SMALL, f"model.path={folder}/first/model/merged"]
    few(folder / "second" / "corpus", [*turned, *(r for r in rows if r["source"] == "benign")])
    run_stages(second, load_config([DEMO, OLD], [*overrides, "triage.audit_labels=''"]))
    return first, second


def metrics_of(run: Run) -> dict[str, Any]:
    return dict(json.loads((run.evaluation.place / "metrics.json").read_text()))


def test_every_measure_is_there_for_both_models(steps: tuple[Run, Run]) -> None:
    metrics = metrics_of(steps[0])
    assert set(metrics["tpa"]) == {"base", "realigned"}
    assert metrics["tpa_interval"]["base"]["all"][0] <= metrics["tpa"]["base"]["all"]
    attacks = metrics["attacks"]
    assert attacks["n"]["base"] == {"plain": 4, "fiction": 4, "no_refusal": 4}
    assert attacks["asr"]["base"]["plain"] == 0  # aligned to refuse
    assert metrics["drift"]["kl_to_base"] > 0
    assert metrics["drift"]["pairs"] == metrics["drift"]["held_out_pairs"] == 20
    assert metrics["capability"]["base"]["results"]["adding"]["exact_match"]["value"] == 0
    assert metrics["capability"]["realigned"]["documents"] == {"adding": 3}
    answers = [r for p in (steps[0].evaluation.place / "attacks").files() for r in pq.read_table(p.path).to_pylist()]
    rows = [r for p in (steps[0].evaluation.place / "responses").files() for r in pq.read_table(p.path).to_pylist()]
    assert (len(answers), len(rows)) == (24, 24)


def test_the_second_step_names_the_first_and_starts_from_its_model(steps: tuple[Run, Run]) -> None:
    first, second = metrics_of(steps[0]), metrics_of(steps[1])
    assert first["lineage"] == []
    (step,) = second["lineage"]
    assert step["run"] == steps[0].place.uri
    assert step["policy"]["name"] == "synth_new"
    assert step["tpa"]["realigned"] == first["tpa"]["realigned"]["all"]
    manifest = steps[1].model.manifest()
    assert manifest["base model"] == f"{steps[0].place.path}/model/merged"
    assert steps[1].triaged.manifest()["policy"]["name"] == "synth_old"


def test_compare_shows_both_with_their_memory(steps: tuple[Run, Run], tmp_path: Path) -> None:
    page = tmp_path / "compare.html"
    result = CliRunner().invoke(app, ["compare", *(run.place.path for run in steps), "--html", str(page)])
    assert result.exit_code == 0, result.output
    for text in ("peak memory, GiB", "KL to base", "judged in triage", "fiction: realigned", "adding exact_match"):
        assert text in result.output
    assert "the runs differ in policy" in result.output + result.stderr
    assert "trace (second), step 1" in page.read_text()


def test_ratings_from_export_to_win_rate(steps: tuple[Run, Run], tmp_path: Path) -> None:
    def call(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["rate", *arguments, "--out", str(tmp_path)])
        assert result.exit_code == 0, result.output
        return result.output

    call("export", *(run.place.path for run in steps), "--base")
    (tmp_path / "judge.yaml").write_text("evaluate: {panel: [{backend: rules}]}")
    call("panel", "-c", str(DEMO), "-c", str(tmp_path / "judge.yaml"))
    results = json.loads(call("score", str(tmp_path / "panel.csv"), "--json"))
    assert {row["system"] for row in results["win_rates"]} | {row["against"] for row in results["win_rates"]} == {
        "base",
        "trace (first)",
        "trace (second)",
    }
    assert results["raters"] == {"1 rules": results["items"]}
