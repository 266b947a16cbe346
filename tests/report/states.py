"""The six states that a report can be read in, each cut from one finished run's own files.

`python -m tests.report.states RUN OUT` writes each one's page and four screenshots, at 1280 and 390 pixels, light and dark;
it says where a page is wider than its window or a text does not contrast.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from tests.report.chromium import Chromium
from tests.report.contrast import CONTRAST
from trace_ray.config import Config, StorageConfig
from trace_ray.config.policy import ClauseConfig
from trace_ray.judges.labels import Label
from trace_ray.pairs import TRIAGED_SCHEMA, Category, fitted
from trace_ray.report.page import render
from trace_ray.runs.anew import STOPPED
from trace_ray.runs.artifacts import AUDIT_FILE, TRAINING_METRICS, Artifact, Run
from trace_ray.storage.location import locate
from trace_ray.triage.audit import audit
from trace_ray.triage.fitting import Labelled

States = dict[str, tuple[Run, Config]]
_LEFT_OUT = ("checkpoints", "merged", "generated", "verdicts", "tensorboard", "corpus", "scores")
"""Folders that no page reads."""
LATER = ("impact", "scored", "realign", "model", "evaluation")
MISTAKE = "realign.learning_rate: 1.0: loss is not finite for 2 steps, up to step 2: use a lower one"
UNCHECKED = ClauseConfig(id="kindness", text="Be kind to whoever asks.")


def states(folder: Path, config: Config, out: Path) -> States:
    """Returns {state: its run, and the settings to read it with}, each in a folder of its own below ``out``."""
    makers: dict[str, Callable[[Path, Config], Config]] = {
        "triage-only": lambda run, config: _without(run, config, LATER),
        "finished": lambda _run, config: config,
        "failed": _failed,
        "unchecked": _unchecked,
        "bad-judge": _bad_judge,
        "nothing": _nothing,
    }
    made = {}
    for name, make in makers.items():
        shutil.copytree(folder, out / name, ignore=shutil.ignore_patterns(*_LEFT_OUT))
        changed = make(out / name, config)
        made[name] = run_in(out / name), changed
    return made


def run_in(folder: Path) -> Run:
    return Run(locate(str(folder), StorageConfig()))


def _without(folder: Path, config: Config, names: tuple[str, ...]) -> Config:
    for name in names:
        shutil.rmtree(folder / name)
    return config


def _failed(folder: Path, config: Config) -> Config:
    """A training that stopped at its second step."""
    _without(folder, config, ("model", "evaluation"))
    (folder / "realign" / "_DONE").unlink()
    figures = folder / "realign" / TRAINING_METRICS
    figures.write_text("".join(figures.read_text().splitlines(keepends=True)[:2]))
    (folder / "realign" / STOPPED).write_text(json.dumps(MISTAKE))
    return config


def _unchecked(folder: Path, config: Config) -> Config:
    """Judged by rules, which say nothing of one clause."""
    (folder / "triaged" / AUDIT_FILE).unlink(missing_ok=True)
    _facts(run_in(folder).triaged, audit=None, canaries=None, judge="rules", unchecked_clauses=[UNCHECKED.id])
    judge = replace(config.triage.judge, backend="rules")
    return replace(
        config,
        policy=replace(config.policy, clauses=[*config.policy.clauses, UNCHECKED]),
        triage=replace(config.triage, judge=judge, audit_labels=""),
        evaluate=replace(config.evaluate, judge=replace(config.evaluate.judge, backend="rules")),
    )


def _bad_judge(folder: Path, config: Config) -> Config:
    """A judge that calls everything a violation, audited with what the judge before said."""
    _without(folder, config, LATER)
    triaged = run_in(folder).triaged
    truth = {row["pair_id"]: row["category"] for row in triaged.read(["pair_id", "category"]).to_pylist()}
    _rewrite(triaged, lambda row: row | dict.fromkeys(_SAID, 0.97) | {"category": "PUNISH", "judge_error": None})
    _facts(triaged, gates=[], canaries=None)
    return _audited(folder, config, truth)


def _audited(folder: Path, config: Config, truth: Mapping[str, str]) -> Config:
    """Compares what the judge says now with ``truth``, {pair id: category}."""
    triaged = run_in(folder).triaged
    rows = triaged.read(["pair_id", *_SAID]).to_pylist()
    bits = {"RETAIN": (False, True), "INVERT": (True, False), "PUNISH": (True, True)}
    labelled = [
        Labelled(row["pair_id"], Label(*bits[truth[row["pair_id"]]]), *(row[name] for name in _SAID))
        for row in rows
        if truth[row["pair_id"]] in bits
    ]
    figures = audit(labelled, replace(config.triage, calibration="none", false_invert_rate=0.0))
    (folder / "triaged" / AUDIT_FILE).write_text(json.dumps(figures))
    _facts(triaged, audit=figures)
    return config


_SAID = ("p_violates_chosen", "p_violates_rejected")


def _nothing(folder: Path, config: Config) -> Config:
    """A corpus that complies already."""
    _without(folder, config, LATER)
    triaged = run_in(folder).triaged
    _rewrite(triaged, lambda row: row if row["category"] == Category.RETAIN else None)
    return _audited(folder, config, dict.fromkeys(triaged.read(["pair_id"])["pair_id"].to_pylist(), Category.RETAIN))


def _rewrite(triaged: Artifact, change: Callable[[dict[str, Any]], Mapping[str, Any] | None]) -> None:
    """Changes or drops rows; the manifest's counts follow."""
    counts: Counter[str] = Counter()
    for part in triaged.parts():
        rows = [new for row in part.read_parquet().to_pylist() if (new := change(row)) is not None]
        part.write_parquet(fitted(pa.Table.from_pylist(rows, TRIAGED_SCHEMA), TRIAGED_SCHEMA))
        counts.update(f"{row['split']} {row['category']}" for row in rows)
    rejects = triaged.manifest()["counts"].get("rejects", 0)
    total = sum(counts.values())
    _facts(triaged, counts={"rows_in": total + rejects, "rejects": rejects, "triaged": total, **counts})


def _facts(artifact: Artifact, **changed: Any) -> None:
    place = artifact.place / "manifest.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | changed))


def look(name: str, page: Path, browser: Chromium) -> None:
    """Writes the four screenshots of a page beside it and prints what a test would refuse."""
    for width in (1280, 390):
        for dark in (False, True):
            browser.open(page, width=width, dark=dark)
            wide = browser.ask("document.documentElement.scrollWidth")
            _, bad = json.loads(browser.ask(CONTRAST))
            file = page.with_name(f"{name}-{width}-{'dark' if dark else 'light'}.png")
            browser.screenshot(file)
            print(file.name, "too wide" if wide > width else "", bad or "", flush=True)


def main(folder: Path, out: Path) -> None:
    """Makes the pages, then looks at them."""
    from trace_ray.config.load import load_text

    config = load_text((folder / "config.yaml").read_text(), str(folder))
    with Chromium() as browser:
        for name, (run, changed) in states(folder, config, out).items():
            page = out / f"{name}.html"
            page.write_text(render(run, changed))
            look(name, page, browser)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
