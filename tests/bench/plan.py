"""The plan against the run: estimated and actual seconds and peak memory of each stage.

    python tests/bench/plan.py demo|brevity [WORK_FOLDER]

Memory is the proportional set size of the driver and all its descendants, sampled every three seconds: reading it
costs time itself.
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

STAGES = ("triage", "impact", "realign", "evaluate")
EVERY_SECONDS = 3.0


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


if __name__ == "__main__":
    which, work = sys.argv[1], Path(sys.argv[2])
    work.mkdir(parents=True, exist_ok=True)
    cli = [sys.executable, "-m", "trace_ray.cli"]
    command = (
        [*cli, "demo", "--run", str(work / "run")]
        if which == "demo"
        else [*cli, "run", "-c", "conf/examples/smollm2_pku_brevity.yaml", "--run", str(work / "run"), *sys.argv[3:]]
    )
    peaks = run_watched(command, work / "run.log")
    print(json.dumps({"peaks": peaks, "seconds": actual_seconds(work / "run")}))
