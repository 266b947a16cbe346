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


def demo(
    overrides: Overrides = None, run: RunUri = "runs/demo", method: Method = None, as_json: AsJson = False
) -> None:
    """The embedded default: a synthetic policy shift, tiny models, minutes on a CPU; ends in a table and a report."""
    from trace_ray.pipeline import run_folder
    from trace_ray.synth.demo import write_corpus

    storage = load_storage([text for text in overrides or [] if text.startswith("storage.")])
    corpus = write_corpus(run_folder(run, storage).place / "corpus")
    example = str(conf_folder() / "examples" / "demo.yaml")
    show_run(run_and_tell([example], [*corpus, *(overrides or [])], run, method, STAGES), as_json=as_json)


def init(file: Annotated[Path, typer.Argument(help="yaml file to write")] = Path("trace-ray.yaml")) -> None:
    """Writes a commented starter configuration."""
    if file.exists():
        raise UserError("init", file, "is there already; name another file")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(Path(__file__).with_name("starter.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    print(f"{file}: change policy, corpus.paths and the models, then: trace-ray plan -c {file}")
