"""The plan against the run: estimated and actual seconds and peak memory of each stage.

    python tests/bench/plan.py demo|brevity WORK_FOLDER [key=value ...]

Plans, runs from nothing, compares. ``brevity`` is conf/examples/smollm2_pku_brevity.yaml; start it in the project's root.
Memory is the proportional set size of the driver and all its descendants, sampled every second: reading it costs
time itself. Another busy process spoils both sides.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

from trace_ray.config import StorageConfig
from trace_ray.config.sources import conf_folder
from trace_ray.storage.location import locate
from trace_ray.synth.demo import write_corpus

STAGES = ("triage", "impact", "realign", "evaluate")
EVERY_SECONDS = 1.0


def run_watched(command: list[str], log: Path) -> dict[str, float]:
    """Runs a trace-ray command; returns the peak memory of each of its stages in GiB."""
    peaks = dict.fromkeys(STAGES, 0.0)
    stage = [""]
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE, text=True)
        watcher = threading.Thread(target=_watch, args=(psutil.Process(process.pid), stage, peaks), daemon=True)
        watcher.start()
        assert process.stderr is not None
        for line in process.stderr:
            out.write(line)
            started = re.match(r"\s*(\w+): start", line)
            stage[0] = started.group(1) if started else stage[0]
        assert process.wait() == 0, log.read_text()[-2000:]
    return peaks


def _watch(root: psutil.Process, stage: list[str], peaks: dict[str, float]) -> None:
    while root.is_running() and root.status() != psutil.STATUS_ZOMBIE:
        total = 0
        for process in [root, *root.children(recursive=True)]:
            try:
                total += process.memory_full_info().pss
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        if stage[0] in peaks:
            peaks[stage[0]] = max(peaks[stage[0]], total / 2**30)
        time.sleep(EVERY_SECONDS)


def actual_seconds(run: Path) -> dict[str, float]:
    """Returns the seconds of each stage from its manifest."""
    folders = {"triage": "triaged", "impact": "scored", "realign": "model", "evaluate": "evaluation"}
    return {stage: json.loads((run / f / "manifest.json").read_text())["seconds"] for stage, f in folders.items()}


def arguments(which: str, work: Path, extra: list[str]) -> tuple[list[str], list[str]]:
    """Returns the arguments of ``plan`` and of the run."""
    run = ["--run", str(work / "run")]
    if which == "demo":
        corpus = write_corpus(locate(str(work / "corpus"), StorageConfig()))
        demo = str(conf_folder() / "examples" / "demo.yaml")
        return ["plan", "-c", demo, *corpus, *extra, *run], ["demo", *extra, *run]
    example = str(conf_folder() / "examples" / "smollm2_pku_brevity.yaml")
    return ["plan", "-c", example, *extra, *run], ["run", "-c", example, *extra, *run]


def main(which: str, work: Path, extra: list[str]) -> None:
    """Plans, runs, prints the table and one JSON object."""
    work.mkdir(parents=True, exist_ok=True)
    cli = [sys.executable, "-m", "trace_ray.cli"]
    plan_arguments, run_arguments = arguments(which, work, extra)
    started = time.monotonic()
    planned = subprocess.run([*cli, *plan_arguments, "--json"], capture_output=True, text=True, check=True)
    plan_seconds = time.monotonic() - started
    (work / "plan.json").write_text(planned.stdout)
    estimates = {stage["stage"]: stage for stage in json.loads(planned.stdout)["stages"]}
    peaks = run_watched([*cli, *run_arguments], work / "run.log")
    seconds = actual_seconds(work / "run")
    ratios: dict[str, dict[str, float]] = {"seconds": {}, "memory_gib": {}}
    print(f"{'stage':10}{'planned s':>11}{'actual s':>10}{'ratio':>7}{'planned GiB':>13}{'actual GiB':>12}{'ratio':>7}")
    for stage, planned_stage in estimates.items():
        for name, actual in (("seconds", seconds[stage]), ("memory_gib", peaks[stage])):
            ratios[name][stage] = planned_stage[name] / actual
        figures = (planned_stage["seconds"], seconds[stage], ratios["seconds"][stage])
        memory = (planned_stage["memory_gib"], peaks[stage], ratios["memory_gib"][stage])
        print(f"{stage:10}" + "{:11.1f}{:10.1f}{:7.2f}".format(*figures) + "{:13.2f}{:12.2f}{:7.2f}".format(*memory))
    total = sum(stage["seconds"] for stage in estimates.values()) / sum(seconds.values())
    worst = max(max(r, 1 / r) for r in [total, *ratios["seconds"].values(), *ratios["memory_gib"].values()])
    print(
        json.dumps(
            {"which": which, "total_seconds_ratio": total, "worst": worst, "plan_seconds": plan_seconds} | ratios
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
