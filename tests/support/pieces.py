"""A piece of finished work of each stage, as it is found on disk."""

from __future__ import annotations

from trace_ray.runs.artifacts import GENERATED, SCORES, WORK, Run

PIECES = {
    "triage": (f"triaged/{WORK}/judge/block-000000.json", f"triaged/{WORK}/attempts/block-000000/span-0-9.parquet"),
    "impact": (f"impact/{SCORES}/part-0-000000000.json", "scored/part-0-000000000.parquet"),
    "realign": (
        "realign/checkpoints/checkpoint_2026-01-01/weights.safetensors",
        "realign/rounds/0/training/realign/checkpoints/checkpoint_2026-01-01/cursor.json",
    ),
    "evaluate": (f"evaluation/{GENERATED}/part-base-000000.parquet", "evaluation/attacks/part-base-000000.parquet"),
}
"""Of each stage that has any, files below the run that make it one which may not begin anew under other settings."""

LEFTOVERS = {
    "triage": (
        f"triaged/{WORK}/reading.json",
        f"triaged/{WORK}/runs/run-000000-000000",
        f"triaged/{WORK}/canaries.json",
        f"triaged/{WORK}/attempts/canaries-000000/span-0-9.parquet",
        f"triaged/{WORK}/attempts/block-000000/span-0-9.try0",
        "rejects/part-read-000000-000000.parquet",
    ),
    "impact": (
        "impact/gold.parquet",
        "impact/direction.json",
        "impact/direction.safetensors",
        "impact/adapter_init/adapter_model.safetensors",
    ),
    "realign": (
        "realign/metrics.jsonl",
        "realign/validations.jsonl",
        "realign/mistake.json",
        "realign/reference/part-0.parquet",
        "realign/rounds/0/training/scored/part-0.parquet",
        "model/resources.json",
    ),
    "evaluate": ("evaluation/resources.json",),
}
"""What a stage leaves that has finished nothing; made under settings of its own all the same."""


def leave(run: Run, files: tuple[str, ...]) -> None:
    for file in files:
        (run.place / file).write_text("left behind")
