"""Triage on a real local Ray over a corpus of ranked sets that make several pairs each."""

from __future__ import annotations

import json
from pathlib import Path

from trace_ray.config import StorageConfig
from trace_ray.config.load import load_config
from trace_ray.config.sources import conf_folder
from trace_ray.pairs import line_of
from trace_ray.pipeline import run_stages
from trace_ray.report.sections.gap import gap_section
from trace_ray.report.sections.problems import problems_section
from trace_ray.report.survey.surveys import surveys
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import locate

SETS, ANSWERS = 40, 4


def test_every_pair_of_every_set_is_judged_once(tmp_path: Path) -> None:
    def ranked(i: int) -> str:
        answers = [{"answer": f"{i} " + "word " * (30 * n + i), "rank": float(n + 1)} for n in range(ANSWERS)]
        return json.dumps({"prompt": f"\n\nHuman: Why {i}?\n\nAssistant: ", "answers": answers})

    tied = json.dumps({"prompt": "q", "answers": [{"answer": "a", "rank": 1}, {"answer": "b", "rank": 1}]})
    (tmp_path / "x.jsonl").write_text("\n".join([*map(ranked, range(SETS)), tied, "{broken"]) + "\n")
    overrides = [f"corpus.paths=[{tmp_path}/x.jsonl]", "corpus.pairs=all", "corpus.rows_per_part=32", "model.path=none"]
    overrides += ["triage.judge.backend=rules", "evaluate.judge.backend=rules", "ray.local_cpus=2"]
    config = load_config([conf_folder() / "policies" / "brevity.yaml"], overrides)
    run = Run(locate(str(tmp_path / "run"), StorageConfig()))
    run_stages(run, config, ["triage"])
    pairs = ANSWERS * (ANSWERS - 1) // 2
    counts = run.triaged.manifest()["counts"]
    assert (counts["rows_in"], counts["extra_pairs"], counts["rejects"]) == (SETS + 2, SETS * (pairs - 1), 2)
    assert counts["triaged"] == SETS * pairs == counts["rows_in"] + counts["extra_pairs"] - counts["rejects"]
    rows = run.triaged.read(["row", "pair_id"])
    assert len(set(rows["row"].to_pylist())) == len(set(rows["pair_id"].to_pylist())) == SETS * pairs
    assert sorted(map(line_of, rows["row"].to_pylist())) == [i + 1 for i in range(SETS) for _ in range(pairs)]
    assert len(list(run.triaged.parts())) > 4, "blocks are counted by the pairs, not by the rows"
    seen = surveys(run, config)
    gap = gap_section(run, seen)
    assert gap is not None
    assert (gap.made, gap.rejects) == (SETS * pairs + 2, 2)
    lines = {
        refusal.reason: [example[1] for example in refusal.examples]
        for refusal in problems_section(run, seen, "none").refused
    }
    assert lines == {"no_preference": [SETS + 1], "broken_json": [SETS + 2]}
