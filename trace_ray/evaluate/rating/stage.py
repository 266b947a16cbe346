"""Export of blind comparisons from finished runs, a judge panel's votes, and the import of ratings."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from trace_ray.cluster.connection import ensure_ray
from trace_ray.cluster.nodes import gpus_there
from trace_ray.config import Config, JudgeConfig, judge_name
from trace_ray.config.gpus import alone, with_gpus
from trace_ray.config.policy import PolicyConfig, policy_text
from trace_ray.errors import UserError
from trace_ray.evaluate.rating.items import Answers, blind_items, items_csv
from trace_ray.evaluate.rating.page import rater_page
from trace_ray.evaluate.rating.panel import BlindItem, panel_votes
from trace_ray.evaluate.rating.results import rating_results, read_ratings
from trace_ray.runs.artifacts import RESPONSES, Run, inputs_hash
from trace_ray.storage.jsonl import read_utf8
from trace_ray.storage.location import Location

ITEMS, PAGE, KEY, PANEL, RESULTS = "items.csv", "rater.html", "key.json", "panel.csv", "results.json"
QUESTIONS = {"choice": "Which answer follows the policy better?", "helpful": "Which answer helps more?"}
"""{column of a rater's file: what the rater is asked}; the first is what win rates are made of."""


def systems_of(runs: Sequence[Run], *, with_base: bool) -> Answers:
    """Returns each system's answers to the held-out prompts: ``base`` and each run's model by its method and folder.

    One run is compared with its base; of several, the base is one more system only if asked for.
    """
    answers: dict[str, dict[str, dict[str, Any]]] = {}
    for place, run in enumerate(runs):
        method = run.model.manifest()["method"]
        run.evaluation.manifest()
        rows = [r for p in (run.evaluation.place / RESPONSES).files(".parquet") for r in p.read_parquet().to_pylist()]
        name = f"{method} ({run.place.name})"
        if name in answers:
            raise UserError("rate", f"two runs called {name}", "give runs in folders of different names")
        answers[name] = {r["pair_id"]: r for r in rows if r["model"] == "realigned"}
        if place == 0 and (with_base or len(runs) == 1):
            answers["base"] = {r["pair_id"]: r for r in rows if r["model"] == "base"}
    return answers


def export_items(
    runs: Sequence[Run], policy: PolicyConfig, out: Location, count: int, seed: int, *, with_base: bool
) -> int:
    """Writes items.csv, rater.html (both blind) and key.json (which letter is whom: keep it from raters); returns items."""
    items, identical = blind_items(systems_of(runs, with_base=with_base), count, seed)
    if not items:
        raise UserError("rate", f"{identical} prompts, all answered alike", "there is nothing to choose between")
    key = {
        "systems": {item.item_id: item.systems for item in items},
        "identical_answers": identical,
        "runs": [run.place.uri for run in runs],
        "seed": seed,
    }
    export_id = inputs_hash(key)[:8]
    (out / ITEMS).write_text(items_csv(items))
    (out / PAGE).write_text(rater_page(items, QUESTIONS, policy_text(policy), export_id))
    blind = [[item.item_id, item.prompt, item.answers] for item in items]
    (out / KEY).write_text(json.dumps(key | {"export": export_id, "items": blind}, indent=1))
    return len(items)


def read_key(out: Location) -> dict[str, Any]:
    """Returns key.json. Raises UserError where the folder holds no export."""
    if not (out / KEY).exists():
        raise UserError("rate", out.uri, "no export there; make one with trace-ray rate export")
    return dict(json.loads((out / KEY).read_text()))


def run_panel(out: Location, config: Config, margin: float) -> int:
    """Writes panel.csv with the votes of every judge in ``evaluate.panel``; returns the judges."""
    import ray

    judges = config.evaluate.panel
    if not judges:
        raise UserError("evaluate.panel", "empty", "name the panel's judges, e.g. evaluate.panel=[{backend: rules}]")
    items: list[BlindItem] = [(i, prompt, answers) for i, prompt, answers in read_key(out)["items"]]
    ensure_ray(config.ray)
    judges = with_gpus(config, gpus_there(config.ray), ["evaluate"]).evaluate.panel
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["item_id", "rater", "choice"])
    for number, judge in enumerate(judges, 1):
        options = {"num_cpus": judge.num_cpus, "num_gpus": judge.gpus or None, "max_calls": 1}
        task = ray.remote(label_selector=judge.label_selector or None, **options)(_votes)
        name = f"{number} {judge_name(judge).rstrip('/').rsplit('/', 1)[-1]}"
        writer.writerows(
            [item, name, choice] for item, choice in ray.get(task.remote(config.policy, judge, items, margin))
        )
    (out / PANEL).write_text(text.getvalue())
    return len(judges)


def _votes(policy: PolicyConfig, judge: JudgeConfig, items: list[BlindItem], margin: float) -> list[tuple[str, str]]:
    from trace_ray.judges.backends import make_judge

    return panel_votes(make_judge(policy, alone(judge), where="evaluate.panel"), items, margin)


def score_ratings(out: Location, files: Sequence[Location], resamples: int, seed: int) -> dict[str, Any]:
    """Returns and writes results.json: win rates and agreement over the ratings of all files."""
    key = read_key(out)
    texts = [(read_utf8(place, "rate score"), place.name) for place in files]
    by_question = {
        column: [rating for text, name in texts for rating in read_ratings(text, key["systems"], name, column)]
        for column in QUESTIONS
    }
    ratings = by_question["choice"]
    twice = len(ratings) - len({(rating.item_id, rating.rater) for rating in ratings})
    if twice:
        raise UserError("rate score", f"{twice} ratings given twice", "two files hold the same rater; leave one out")
    results = rating_results(ratings, key["systems"], resamples, seed)
    if helpful := by_question["helpful"]:
        results["helpful"] = rating_results(helpful, key["systems"], resamples, seed)
    results |= {"identical_answers": key["identical_answers"], "runs": key["runs"]}
    (out / RESULTS).write_text(json.dumps(results, indent=1))
    return results
