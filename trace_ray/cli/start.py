"""`trace-ray demo` and `trace-ray init`: the first things a newcomer types."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trace_ray.cli.options import AsJson, Method, Overrides, RunUri
from trace_ray.cli.output import show_run
from trace_ray.cli.stages import run_and_tell
from trace_ray.config.load import load_storage
from trace_ray.config.sources import conf_folder
from trace_ray.errors import UserError
from trace_ray.runs.artifacts import STAGES

NEEDS = {
    "rules": "it reads pairs.jsonl and a model in models/smollm2-135m-instruct (make smollm2); put your own policy in",
    "judge": "it reads pairs.jsonl and fetches its models from the hub; put your own policy in",
    "endpoint": "put in the endpoint's address and the name of its model, and your policy",
    "gpu": "it needs one GPU; change policy, corpus.paths and the models",
    "cluster": "it needs a Ray cluster with GPUs; put your bucket in place of REPLACE-ME-BUCKET, and your policy",
}
"""What a starter configuration asks of its reader, in one line."""


def demo(
    overrides: Overrides = None, run: RunUri = "runs/demo", method: Method = None, as_json: AsJson = False
) -> None:
    """A made-up change of policy on tiny models, all stages, minutes on a CPU: ends in tables and a report."""
    from trace_ray.pipeline import run_folder
    from trace_ray.synth.demo import write_corpus

    storage = load_storage([text for text in overrides or [] if text.startswith("storage.")])
    corpus = write_corpus(run_folder(run, storage).place / "corpus")
    example = str(conf_folder() / "examples" / "demo.yaml")
    show_run(run_and_tell([example], [*corpus, *(overrides or [])], run, method, STAGES), as_json=as_json)


def init(
    file: Annotated[Path, typer.Argument(help="yaml file to write")] = Path("trace-ray.yaml"),
    rules: Annotated[bool, typer.Option("--rules", help="a policy that code decides; a CPU will do")] = False,
    judge: Annotated[bool, typer.Option("--judge", help="a small judge model on the CPU, from the hub")] = False,
    endpoint: Annotated[bool, typer.Option("--endpoint", help="a judge behind an OpenAI-compatible address")] = False,
    gpu: Annotated[bool, typer.Option("--gpu", help="judge and model on one GPU; the default")] = False,
    cluster: Annotated[bool, typer.Option("--cluster", help="a Ray cluster that is there, files in S3")] = False,
) -> None:
    """Writes a commented starter configuration."""
    asked = {"rules": rules, "judge": judge, "endpoint": endpoint, "gpu": gpu, "cluster": cluster}
    kinds = [kind for kind, wanted in asked.items() if wanted] or ["gpu"]
    if len(kinds) > 1:
        raise UserError("init", " ".join(f"--{kind}" for kind in kinds), "ask for one kind of configuration")
    if file.exists():
        raise UserError("init", file, "is there already; name another file")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(starter(kinds[0]).read_text(encoding="utf-8"), encoding="utf-8")
    print(f"{file}: {NEEDS[kinds[0]]}; then: trace-ray plan -c {file}")


def starter(kind: str) -> Path:
    """Returns the file that ``init`` copies: kind is rules, judge, endpoint, gpu or cluster."""
    return Path(__file__).with_name("starters") / f"{kind}.yaml"
