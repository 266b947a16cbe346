"""What a first judge made from the dear one saves on real pairs, and how often it says the same: rows of a table.

    python -m tests.bench.distilled [--pairs-file ../shared/data/pku_saferlhf_2400.jsonl.gz] [--first 600]

`trace-ray triage` with triage.first_judge=distilled; the rules judge stands in for the dear one, so that what it would have
said of every response is known. Saved: of all responses, those that the dear judge was not asked of, what it taught with
counted as asked. Agreement: of the distinct responses that the distilled judge decided, with the lower end of the two-sided
95 % interval (Clopper-Pearson); found: of what violates, the share that is called so in the end.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trace_ray.config import Config
from trace_ray.config.load import load_config
from trace_ray.config.sources import conf_folder
from trace_ray.judges.rules_judge import RulesJudge
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import locate
from trace_ray.triage.calibrate import upper_bound

PAIRS = Path(__file__).resolve().parents[3] / "shared" / "data" / "pku_saferlhf_2400.jsonl.gz"
ADVICE = (
    r"policy.clauses=[{id: advice, text: No advice., rule: {forbid: '(?i)\byou (?:should|could|can|may|might)\b'}}]"
)
BREVITY = str(conf_folder() / "policies" / "brevity.yaml")
POLICIES: dict[str, tuple[list[str], list[str]]] = {
    "brevity: a length": ([BREVITY], []),
    "advice: five phrases, anywhere": ([BREVITY], ["policy.name=advice", "policy.text=No advice.", ADVICE]),
    "no_flat_refusal: stock phrases, rare": ([str(conf_folder() / "policies" / "no_flat_refusal.yaml")], []),
}
"""{what it is: (files, settings)}."""


@dataclass(frozen=True)
class Saving:
    """What came of one policy.

    Args:
        violating, responses: of the corpus; taught: ``distil.Taught`` as the manifest has it.
        saved: share of responses that the dear judge was not asked of; alone: distinct ones that the other decided.
        agreement, at_least: of these; found: of the violating ones.
    """

    violating: float
    responses: int
    taught: Mapping[str, Any]
    saved: float
    alone: int
    agreement: float | None
    at_least: float | None
    found: float


def measure(files: list[str], settings: list[str], pairs: Path, first: int, folder: Path) -> Saving:
    """Triages the pairs once, on a local Ray, and holds every verdict against the rules."""
    asked = [part for file in files for part in ("-c", file)]
    asked += [
        *settings,
        f"corpus.paths=[{pairs}]",
        "triage.judge.backend=rules",
        "triage.first_judge.backend=distilled",
    ]
    asked += [f"triage.distil_pairs={first}", "ray.local_cpus=2"]
    command = [sys.executable, "-m", "trace_ray.cli", "triage", *asked, "--run", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    config = load_config([folder / "config.yaml"])
    return saving_of(Run(locate(str(folder), config.storage)), config)


def saving_of(run: Run, config: Config) -> Saving:
    """Returns what the rules say of the verdicts of a finished triage with a distilled first judge."""
    manifest, rows = run.triaged.manifest(), run.triaged.read().to_pylist()
    said = {
        (row["prompt"][-1]["content"], row[side]): row[f"p_violates_{side}"] >= config.triage.threshold
        for row in rows
        for side in ("chosen", "rejected")
    }
    requests, responses = ([both[i] for both in said] for i in (0, 1))
    truth = np.array([opinion.p_violates == 1.0 for opinion in RulesJudge(config.policy).opinions(requests, responses)])
    verdicts, used = np.array(list(said.values())), manifest["used"]
    alone, wrong = used["cascade_judged"] - used["escalated"], int((verdicts != truth).sum())
    return Saving(
        violating=float(truth.mean()),
        responses=len(truth),
        taught=manifest["distilled"],
        saved=1 - used["judged_prompts"] / used["cascade_judged"],
        alone=alone,
        agreement=1 - wrong / alone if alone else None,
        at_least=1 - upper_bound(wrong, alone, 0.975) if alone else None,
        found=float(verdicts[truth].mean()),
    )


def row(name: str, found: Saving) -> str:
    """Returns a line of the README's table."""
    taught = found.taught
    alike = f"{found.agreement:.4f} ({found.at_least:.4f})" if found.agreement is not None else "-"
    stated = (
        "decides nothing" if taught["at_least"] is None else f"{taught['agreement']:.4f} ({taught['at_least']:.4f})"
    )
    return (
        f"| {name} | {found.violating:.3f} | {taught['violating']} of {taught['needed']} needed | {stated} "
        f"| {found.saved:.3f} | {alike} | {found.found:.4f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs-file", type=Path, default=PAIRS)
    parser.add_argument("--first", type=int, default=600)
    given = parser.parse_args()
    print("| policy | violating | of those checked | stated agreement | saved | agreement | violations found |")
    print("|---|---|---|---|---|---|---|")
    for name, (files, settings) in POLICIES.items():
        with tempfile.TemporaryDirectory() as folder:
            found = measure(files, settings, given.pairs_file, given.first, Path(folder) / "run")
        print(row(name, found), flush=True)
        print(json.dumps({"policy": name, "distinct": found.responses, "alone": found.alone} | dict(found.taught)))


if __name__ == "__main__":
    main()
