"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from trace_ray.config.load import method_names

Files = Annotated[
    list[str],
    typer.Option("-c", "--config", help="yaml file, s3:// or a shipped name; again for more, later ones win"),
]
RunUri = Annotated[str, typer.Option("--run", help="the run's folder: a path or s3://bucket/prefix")]
Method = Annotated[
    str | None,
    typer.Option(
        "--method",
        help="a row of conf/methods, e.g. trace or trace_oracle",
        autocompletion=lambda incomplete: [name for name in method_names() if name.startswith(incomplete)],
    ),
]
Overrides = Annotated[list[str] | None, typer.Argument(help="key.path=value, after the files")]
AsJson = Annotated[bool, typer.Option("--json", help="for machines: one JSON document on standard output")]
StorageOverrides = Annotated[list[str] | None, typer.Argument(help="storage.key=value, to reach a run in S3")]
