"""The whole pipeline on SmolLM2-135M with settings for a GPU: seconds and model loads of each stage, memory free again."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.gpu.figures import tell
from tests.gpu.part_judge import ROOT, child_environment
from tests.gpu.shapes import on_card, pairs_file, tokenizer_folder

STAGES = ("triaged", "impact", "realign", "model", "evaluation")
FREE_MIB = 256
"""What may be taken of the card's memory after a run more than before it."""


def measure(options: argparse.Namespace) -> bool:
    """Tells the figures of one run; returns whether all went well."""
    run = tempfile.mkdtemp(prefix="gpu-check-run-")
    before = used_mib()
    try:
        command = [sys.executable, "-m", "trace_ray.cli", "run", "-c", "conf/examples/smollm2_pku_brevity.yaml"]
        started = time.perf_counter()
        subprocess.run([*command, "--run", run, *settings(options)], cwd=ROOT, env=child_environment(), check=True)
        tell(command_s=time.perf_counter() - started, report=(Path(run) / "report.html").exists())
    finally:
        tell_stages(Path(run))
        shutil.rmtree(run, ignore_errors=True)
    after = used_mib()
    freed = before is None or after is None or after <= before + FREE_MIB
    tell(used_mib_before=before, used_mib_after=after, freed=freed)
    return freed


def settings(options: argparse.Namespace) -> list[str]:
    """Returns what the example is run with on this machine."""
    model = os.path.abspath(os.environ.get("TR_MODEL", tokenizer_folder()))
    given = [f"model.path={model}", f"corpus.paths=[{pairs_file()}]"]
    if on_card():
        # Which stage takes the card is left to `auto`.
        given += ["model.dtype=bfloat16", "impact.num_cpus=4", "impact.batch_tokens=16384", "evaluate.num_cpus=4"]
        given += ["realign.micro_tokens=8192", "realign.forward_overhead=256"]
    else:
        given += ["corpus.limit=40", "realign.max_steps=2", "evaluate.prompts=2", "evaluate.max_new_tokens=8"]
        given += ["impact.gold_size=4", "realign.num_cpus=1", "evaluate.num_cpus=1"]
    return [*given, *options.set]


def tell_stages(run: Path) -> None:
    """Tells what the manifests of finished stages hold, as far as there are any."""
    for stage in STAGES:
        place = run / stage / "manifest.json"
        if place.exists():
            manifest = json.loads(place.read_text())
            wanted = ("model_loads", "run_as", "gpus", "drift", "peak_memory_gib")
            named = {n: manifest[n] for n in wanted if n in manifest}
            tell(**{stage: {"seconds": manifest.get("seconds"), "counts": manifest.get("counts")} | named})


def used_mib() -> int | None:
    """Returns the memory of the first GPU that is taken, by whomever; None without one."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(asked.stdout.split()[0]) if asked.returncode == 0 and asked.stdout.split() else None
