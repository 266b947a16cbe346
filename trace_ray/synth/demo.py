"""The demo's inputs: the generated corpus, the oracle's labels and where the shipped models are."""

from __future__ import annotations

import json
import random
from pathlib import Path

from trace_ray.pairs import pair_id
from trace_ray.storage.location import Location
from trace_ray.synth.oracle import compliant, violates
from trace_ray.synth.world import generate

SEED = 0
MODELS = Path(__file__).with_name("models")


def write_corpus(place: Location) -> list[str]:
    """Writes train.jsonl, test.jsonl and labels.jsonl below ``place``; returns the overrides that name them."""
    world = generate(seed=SEED)
    for name, rows in (("train", world.train), ("test", world.test)):
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    labels = [_label(row) for row in (*world.train, *world.test)]
    (place / "labels.jsonl").write_text("".join(json.dumps(label) + "\n" for label in labels))
    gold = [made for row in world.train if (made := _gold(row))]
    (place / "gold.jsonl").write_text("".join(json.dumps(row) + "\n" for row in gold))
    return [
        f"corpus.paths=['{(place / 'train.jsonl').uri}']",
        f"corpus.test_paths=['{(place / 'test.jsonl').uri}']",
        f"triage.audit_labels='{(place / 'labels.jsonl').uri}'",
        f"triage.gold_responses='{(place / 'gold.jsonl').uri}'",
        f"model.path='{MODELS / 'policy'}'",
        f"triage.judge.model='{MODELS / 'judge'}'",
    ]


def _gold(row: dict[str, str]) -> dict[str, str] | None:
    """A compliant response of the oracle's, where neither of the pair's complies."""
    prompt, chosen = row["prompt"], row["chosen"]
    if not (violates(prompt, chosen) and violates(prompt, row["rejected"])):
        return None
    rng = random.Random(f"gold {prompt} {chosen}")  # noqa: S311 - no secret
    return {"prompt": prompt, "chosen": chosen, "corrected": compliant(rng, prompt)}


def _label(row: dict[str, str]) -> dict[str, object]:
    prompt, chosen, rejected = row["prompt"], row["chosen"], row["rejected"]
    return {
        "pair_id": pair_id([{"role": "user", "content": prompt}], chosen, rejected),
        "violates_chosen": violates(prompt, chosen),
        "violates_rejected": violates(prompt, rejected),
    }
