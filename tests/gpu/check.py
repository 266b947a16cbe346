"""`make gpu-check`: numbers and speed on one GPU; tests/gpu/README.md says what each figure is.

    python -m tests.gpu.check [--parts numbers,score,...] [--shape 8b|tiny] [--out DIR] [--set SECTION.KEY=VALUE ...]

Each part runs in a process of its own, for as long as its limit and that of the whole allow; one that fails or is over it is
told as such, and the others go on. Its figures are printed as they come, its output lies in DIR/PART.log, and the last line is
one JSON object of all, also in DIR/check.json. Exit code 0 if all parts went well, 1 if not, 2 without a GPU (unless
``--shape tiny``: CPU).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from tests.gpu.figures import told
from tests.gpu.shapes import pairs_file, tokenizer_folder

LIMITS = {"numbers": 100, "score": 150, "train": 150, "trl": 150, "judge": 300, "pipeline": 270}
"""Seconds of each part, in the order in which they run."""
TOTAL = 360
"""Seconds of all of them."""
PACKAGES = ("torch", "transformers", "peft", "deepspeed", "trl", "ray", "vllm", "liger-kernel")
_FAREWELL_S = 10.0


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    add = parser.add_argument
    add("--parts", default=",".join(LIMITS), help=f"of {', '.join(LIMITS)}")
    add("--shape", default="8b", choices=("8b", "tiny"), help="Llama-3.1-8B's, or one that a CPU runs")
    add("--out", default="runs/gpu-check", help="folder of logs and check.json")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of ours, such as model.packing=rows")
    add("--limit", type=int, default=0, help="seconds of each part, instead of its own")
    add("--total", type=int, default=TOTAL, help="seconds of all parts (default: %(default)s)")
    add("--pairs", type=int, default=0, help="pairs scored and trained on; 512, tiny 32")
    add("--length", type=int, default=0, help="tokens of a prompt with its response at most; 512, tiny 96")
    add("--batch-tokens", type=int, default=0, help="of a scoring forward; 32768, tiny 2048")
    add("--no-sharing", action="store_true", help="score each response in a row of its own")
    add("--micro-tokens", type=int, default=0, help="of a training forward; 16384, tiny 2048")
    add("--batch", type=int, default=0, help="pairs of a training step; 32, tiny 8")
    add("--checkpointing", default="on", choices=("on", "off"), help="gradient checkpointing, ours and TRL's")
    add("--trl-pairs", type=int, default=0, help="pairs of a forward of TRL's; 16, tiny 4")
    add("--families", default="llama,qwen3,gemma2,gemma3,mistral", help="of numbers")
    add("--profile", action="store_true", help="print the kernels that take longest in score and train")
    add("--judge-pairs", type=int, default=0, help="pairs judged; 1024, tiny 32")
    add("--judge-set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the judge's triage")
    add("--part", default="", help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    usual = {
        "length": (512, 96),
        "pairs": (512, 32),
        "batch_tokens": (32768, 2048),
        "micro_tokens": (16384, 2048),
        "batch": (32, 8),
    }
    usual |= {"trl_pairs": (16, 4), "judge_pairs": (1024, 32)}
    for name, (large, small) in usual.items():
        setattr(options, name, getattr(options, name) or (small if options.shape == "tiny" else large))
    unknown = set(options.parts.split(",")) - LIMITS.keys()
    if unknown:
        parser.error(f"--parts: no {', '.join(sorted(unknown))}; use {', '.join(LIMITS)}")
    return options


def main(given: list[str] | None = None) -> int:
    """Runs the parts that are asked for; returns the exit code."""
    options = arguments(given)
    if options.part:
        return 0 if importlib.import_module(f"tests.gpu.part_{options.part}").measure(options) else 1
    card = card_name()
    if card is None and options.shape != "tiny":
        print("gpu-check: no GPU here (nvidia-smi finds none): --shape tiny runs the parts on the CPU", file=sys.stderr)
        return 2
    for variable, place in (("TR_TOK", tokenizer_folder()), ("TR_PAIRS", pairs_file())):
        if not os.path.exists(place):
            print(
                f"gpu-check: {variable}: nothing at {place}; name the tokenizer's folder, the pairs' file",
                file=sys.stderr,
            )
            return 2
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"card": card or "cpu", "shape": options.shape, "set": options.set, "versions": versions()}
    result["parts"] = {}
    argv, started = sys.argv[1:] if given is None else given, time.monotonic()
    for name in options.parts.split(","):
        command = [sys.executable, "-m", "tests.gpu.check", *argv, "--part", name]
        left = options.total - (time.monotonic() - started)
        found = run_part(command, out / f"{name}.log", round(min(options.limit or LIMITS[name], left), 1))
        result["parts"][name] = found
        print(name, json.dumps(found), flush=True)
        (out / "check.json").write_text(json.dumps(result))
    print(json.dumps(result), flush=True)
    return 0 if all(found["ok"] for found in result["parts"].values()) else 1


def card_name() -> str | None:
    """Returns the first GPU's name, driver and memory, as nvidia-smi tells them; None without one."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    return asked.stdout.strip().splitlines()[0] if asked.returncode == 0 and asked.stdout.strip() else None


def versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def run_part(command: list[str], log: Path, limit: float) -> dict[str, Any]:
    """Returns the figures of one part, with ``ok`` and the seconds of its process, and ``error`` where it failed."""
    if limit <= 0:
        return {"ok": False, "process_s": 0.0, "error": "not run: the parts before it took all the time of --total"}
    started = time.monotonic()
    with log.open("w") as output:
        part = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code: int | None = part.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
            end(part)
    text = log.read_text(errors="replace")
    for line in text.splitlines():
        if line.startswith("PROFILE "):
            print(line, flush=True)
    found = {"ok": code == 0, "process_s": round(time.monotonic() - started, 1), **told(text)}
    if code is None:
        found["error"] = f"over its limit of {limit} s"
    elif code:
        said = [line for line in text.strip().splitlines() if not line.startswith(("RESULT ", "PROFILE "))]
        found["error"] = f"exit code {code}: {said[-1][:300] if said else ''}"
    return found


def end(part: subprocess.Popen[bytes]) -> None:
    """Ends a part with all that it started, of other sessions too."""
    import psutil

    root = psutil.Process(part.pid)
    family = [*root.children(recursive=True), root]
    os.killpg(part.pid, signal.SIGINT)
    _, alive = psutil.wait_procs(family, timeout=_FAREWELL_S)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    part.wait()


if __name__ == "__main__":
    sys.exit(main())
