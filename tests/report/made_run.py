"""A run's folder written by hand, with figures that a reader can add up and texts that try to break out."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from trace_ray.config import Config, ObjectiveConfig, StorageConfig
from trace_ray.config.load import load_config
from trace_ray.config.sources import conf_folder
from trace_ray.evaluate.tpa import evaluation_metrics
from trace_ray.pairs import REJECT_SCHEMA, RESPONSE_SCHEMA, SCORED_SCHEMA, TRIAGED_SCHEMA
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import locate

HOSTILE = (
    "<script>window.pwned=1</script>",
    '"><img src=x onerror="window.pwned=1">',
    "</div></details></main><h1>mine</h1>",
    "{{ 7 * 7 }} {% raw %}",
    "</style><svg onload=window.pwned=1>",
    "]]> --> $\\frac{ \u202e\x00 javascript:window.pwned=1",
)
CATEGORIES = ("INVERT", "INVERT", "PUNISH", "RETAIN", "RETAIN", "RETAIN", "RETAIN", "RETAIN", "RETAIN", "ABSTAIN")
P_VIOLATES = {"INVERT": (0.9, 0.1), "PUNISH": (0.9, 0.8), "RETAIN": (0.1, 0.9), "ABSTAIN": (None, 0.2)}


def config_of(*overrides: str) -> Config:
    """Returns the brevity policy's configuration with a model judge."""
    extra = ["triage.judge.model=some/judge", "model.path=some/model", "evaluate.judge.backend=rules"]
    return load_config([conf_folder() / "policies" / "brevity.yaml"], [*extra, *overrides])


def text_of(name: str, row: int) -> str:
    """Returns a text that can be recognised and, in turn, tries each of HOSTILE."""
    return f"SECRET {name} {row} {HOSTILE[row % len(HOSTILE)]}"


@dataclass
class MadeRun:
    """Writes a run's artefacts; ``rows`` pairs, two sources, one of them hostile; ``prompts`` held out."""

    folder: Path
    rows: int = 20
    repeat: int = 1
    sources: tuple[str, ...] = ("plain", '<img src=x onerror="window.pwned=1"> $\\frac{')
    judge_error: str = "chosen: unreadable: mass 0.{row:03d}"
    answer_error: str | None = None
    prompts: int = 8
    answer_sources: tuple[str, ...] = ("plain",)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    used: dict[str, int] = field(default_factory=lambda: {"judged_tokens": 12345})
    run: Run = field(init=False)

    def __post_init__(self) -> None:
        self.run = Run(locate(str(self.folder), StorageConfig()))

    def pair(self, row: int) -> dict[str, Any]:
        category = CATEGORIES[row % len(CATEGORIES)]
        p_chosen, p_rejected = P_VIOLATES[category]
        return {
            "row": row,
            "pair_id": f"{row:032x}",
            "source": self.sources[row % len(self.sources)],
            "split": "train",
            "prompt": [{"role": "user", "content": text_of("prompt", row) * self.repeat}],
            "chosen": text_of("chosen", row) * self.repeat,
            "rejected": text_of("rejected", row) * self.repeat,
            "p_violates_chosen": p_chosen,
            "p_violates_rejected": p_rejected,
            "category": category,
            "corrected": None,
            "judge_error": self.judge_error.format(row=row) if p_chosen is None else None,
        }

    def triage(self, audit: dict[str, Any] | None = None) -> None:
        run, rows = self.run, [self.pair(row) for row in range(self.rows)]
        for artifact in (run.triaged, run.rejects):
            artifact.begin({"corpus file pairs.jsonl (train)": "abcd"})
        half = len(rows) // 2
        for name, part in (("part-0", rows[:half]), ("part-1", rows[half:])):
            (run.triaged.place / f"{name}.parquet").write_parquet(pa.Table.from_pylist(part, schema=TRIAGED_SCHEMA))
        refused = [
            {
                "row": (1 << 40) + i,
                "source": "bad.jsonl",
                "stage": "triage",
                "reason": reason,
                "detail": text_of("bad", i),
            }
            for i, reason in enumerate(["broken_json"] * 4 + ["empty_field"])
        ]
        (run.rejects.place / "part-0.parquet").write_parquet(pa.Table.from_pylist(refused, schema=REJECT_SCHEMA))
        counts = {"rows_in": self.rows + 5, "rejects": 5, "triaged": self.rows}
        if audit:
            (run.triaged.place / "audit.json").write_text(json.dumps(audit))
        run.rejects.publish(counts={"rejects": 5}, seconds=10)
        policy = {"name": "brevity", "version": "1", "hash": "0123"}
        facts = {"policy": policy, "judge": "some/judge", "used": self.used}
        run.triaged.publish(counts=counts, seconds=10, audit=audit, **facts)

    def impact(self) -> None:
        run = self.run
        rows = [row for row in map(self.pair, range(self.rows)) if row["category"] != "ABSTAIN"]
        for row in rows:
            impact = float(row["row"] - 2) if row["category"] in self.objective.weighed else None
            row |= {"impact": impact, "weight": 1.0 if impact is None else max(0.0, impact)}
            if self.objective.weights == "uniform":
                row["weight"] = 1.0
        for artifact in (run.impact, run.scored):
            artifact.begin({"triaged": "x"})
        (run.scored.place / "part-0.parquet").write_parquet(pa.Table.from_pylist(rows, schema=SCORED_SCHEMA))
        figures = {
            "count": 4.0,
            "share_clamped": 0.6,
            "min": -2.0,
            "median": 0.5,
            "max": 9.0,
            "effective_sample_size": 3.0,
        }
        facts = {"summary": dict.fromkeys(self.objective.weighed, figures), "weight_norm": "mean"}
        run.impact.publish(counts={"INVERT": 4}, seconds=20, response_tokens=777, **facts)
        run.scored.publish(counts={"INVERT": 4, "PUNISH": 2, "untrained": 3}, seconds=20, **facts)

    def realign(self, steps: int = 5) -> None:
        run = self.run
        for artifact in (run.realign, run.model):
            artifact.begin({"scored": "x"})
        rows = [
            {"step": i, "steps": steps, "tokens": 100, "lr": 1e-4, "grad_norm": None, "memory_gib": 0.5 * i}
            | {
                "INVERT/loss": 1.0 / i,
                "INVERT/pairs": 2,
                "INVERT/margin": 0.1 * i,
                "RETAIN/loss": 0.0,
                "RETAIN/pairs": 6,
            }
            for i in range(1, steps + 1)
        ]
        (run.realign.place / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        run.realign.publish(counts={"steps": steps}, seconds=30, tokens=100 * steps)
        run.model.publish(counts={}, seconds=40)

    def evaluate(self) -> None:
        run = self.run
        run.evaluation.begin({"model": "x"})
        rows = [self._answer(model, i) for model in ("base", "realigned") for i in range(self.prompts)]
        place = run.evaluation.place / "responses"
        (place / "part-0.parquet").write_parquet(pa.Table.from_pylist(rows, schema=RESPONSE_SCHEMA))
        judged = {"judge": "rules", "judge_is_triage_judge": False}
        metrics = evaluation_metrics(rows, resamples=200, seed=0) | judged
        (run.evaluation.place / "metrics.json").write_text(json.dumps(metrics))
        run.evaluation.publish(counts={"prompts": self.prompts, "responses": 2 * self.prompts}, seconds=50, tokens=333)

    def _answer(self, model: str, i: int) -> dict[str, Any]:
        """Prompts 0-3 (INVERT) are gained, 4-5 (RETAIN) lost, the others kept."""
        compliant = (i >= 4) if model == "base" else (i < 4 or i >= 6)
        return {
            "pair_id": f"{i:032x}",
            "prompt": text_of("asked", i),
            "source": self.answer_sources[i % len(self.answer_sources)],
            "category": "INVERT" if i < 4 else "RETAIN",
            "model": model,
            "response": text_of(model, i),
            "p_violates": 0.0 if compliant else 1.0,
            "compliant": compliant,
            "judge_error": None if compliant else self.answer_error,
        }

    def everything(self, audit: dict[str, Any] | None = None) -> Run:
        """Writes all stages."""
        self.triage(audit)
        self.impact()
        self.realign()
        self.evaluate()
        return self.run


AUDIT: dict[str, Any] = {
    "pairs": 20,
    "responses": 40,
    "readable": 0.95,
    "auc": 0.91,
    "roc": {"false_alarms": [0.0, 0.1, 1.0], "violations_found": [0.0, 0.7, 1.0]},
    "accuracy": 0.9,
    "kappa": 0.8,
    "agreement": 0.85,
    "false_invert_rate": 0.25,
    "confusion": {"INVERT->INVERT": 3, "RETAIN->INVERT": 1, "RETAIN->RETAIN": 14, "PUNISH->PUNISH": 2},
}
