"""The page: numbers from manifests, pictures by matplotlib as inline SVG, every text from the corpus escaped by Jinja."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from trace_ray.artifacts import Run
from trace_ray.config import Config
from trace_ray.config_load import dump_config
from trace_ray.pairs import Category, prompt_text
from trace_ray.policy import policy_text
from trace_ray.summary import run_summary

COLOURS = {"RETAIN": "#4c9f70", "INVERT": "#d1793b", "PUNISH": "#b8485a", "ABSTAIN": "#8d8d99"}
SHOWN_CHARACTERS = 600


def render(run: Run, config: Config) -> str:
    """Returns the page as HTML, with no link to anything outside it."""
    from jinja2 import Environment, FileSystemLoader

    templates = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    return templates.get_template("page.html.jinja").render(
        summary=run_summary(run),
        gap=gap_by_source(run),
        impact=run.scored.manifest()["summary"],
        weight_norm=config.impact.weight_norm,
        top=top_pairs(run, config.report.top_pairs),
        curves=training_curves(run),
        answers=side_by_side(run, config.report.examples),
        policy=policy_text(config.policy),
        rejects=run.rejects.manifest()["counts"],
        lineage={a.name: a.manifest() for a in (run.triaged, run.scored, run.realign, run.model, run.evaluation)},
        config=dump_config(config),
        method=config.objective.method,
    )


def gap_by_source(run: Run) -> str:
    """Returns the alignment-reality gap as SVG: the share of each category, by source."""
    table = run.triaged.read(["source", "category"])
    counted: dict[str, dict[str, int]] = {}
    for source, category in zip(table["source"].to_pylist(), table["category"].to_pylist(), strict=True):
        counted.setdefault(source, {}).setdefault(category, 0)
        counted[source][category] += 1
    names = sorted(counted)
    figure, axes = _figure(0.5 * len(names) + 1.0)
    left = [0.0] * len(names)
    for category in Category:
        share = [100 * counted[n].get(category, 0) / sum(counted[n].values()) for n in names]
        axes.barh(names, share, left=left, color=COLOURS[category], label=str(category))
        left = [a + b for a, b in zip(left, share, strict=True)]
    axes.set_xlabel("% of pairs")
    axes.legend(ncols=4, loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
    return _svg(figure)


def training_curves(run: Run) -> str:
    """Returns loss by category and step as SVG."""
    rows = [json.loads(line) for line in (run.realign.place / "metrics.jsonl").read_text().splitlines()]
    figure, axes = _figure(3.2)
    for name, colour in COLOURS.items():
        points = [(row["step"], row[f"{name}/loss"]) for row in rows if f"{name}/loss" in row]
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, label=name)
    axes.set_xlabel("step")
    axes.set_ylabel("mean loss of a pair")
    axes.legend(frameon=False)
    return _svg(figure)


def _figure(height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: Any) -> str:
    from markupsafe import Markup

    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    drawing = out.getvalue()
    return Markup(drawing[drawing.index("<svg") :])  # noqa: S704 - matplotlib's drawing, its texts escaped by it


def top_pairs(run: Run, count: int) -> list[dict[str, Any]]:
    """Returns the conflicts of highest weight, texts shortened."""
    columns = ["pair_id", "category", "source", "prompt", "chosen", "rejected", "impact", "weight"]
    best: list[dict[str, Any]] = []
    for name in run.scored.manifest()["parts"]:
        table = (run.scored.place / name).read_parquet(columns)
        conflicts = table.filter(pc.is_valid(table["impact"]))
        best = sorted([*best, *conflicts.to_pylist()], key=lambda row: -row["weight"])[:count]
    texts = {"prompt", "chosen", "rejected"}
    return [
        {k: _short(prompt_text(v) if k == "prompt" else v) if k in texts else v for k, v in row.items()} for row in best
    ]


def side_by_side(run: Run, count: int) -> list[dict[str, Any]]:
    """Returns held-out prompts with both models' answers and verdicts, changed verdicts first."""
    answers: dict[str, dict[str, Any]] = {}
    for part in (run.evaluation.place / "responses").files(".parquet"):
        for row in part.read_parquet().to_pylist():
            entry = answers.setdefault(row["pair_id"], {"prompt": _short(row["prompt"]), "category": row["category"]})
            entry[row["model"]] = {"text": _short(row["response"]), "compliant": row["compliant"]}
    both = [entry for entry in answers.values() if "base" in entry and "realigned" in entry]
    return sorted(both, key=lambda e: e["base"]["compliant"] == e["realigned"]["compliant"])[:count]


def _short(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + " ..."
