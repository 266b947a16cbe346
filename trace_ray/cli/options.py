"""Options that several commands share."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Annotated

import typer

from trace_ray.config.load import method_names

Files = Annotated[
    list[str],
    typer.Option("-c", "--config", help="yaml file, s3:// or a shipped name; again for more, later ones win"),
]
MaybeFiles = Annotated[
    list[str] | None,
    typer.Option("-c", "--config", help="as run's; left out: the run's own config.yaml, and storage.key=value alone"),
]
RunUri = Annotated[str, typer.Option("--run", help="the run's folder: a path or s3://bucket/prefix")]
Method = Annotated[
    str | None,
    typer.Option(
        "--method",
        help="a file of conf/methods, such as trace or trace_oracle",
        autocompletion=lambda incomplete: [name for name in method_names() if name.startswith(incomplete)],
    ),
]
Overrides = Annotated[list[str] | None, typer.Argument(help="key.path=value, after the files")]
AsJson = Annotated[bool, typer.Option("--json", help="for machines: one JSON document on standard output")]
StorageOverrides = Annotated[list[str] | None, typer.Argument(help="storage.key=value, to reach a run in S3")]

_OVERRIDE = re.compile(r"[a-z_]+(\.[a-z_0-9]+)+=.*", re.DOTALL)


def parted(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns the words that name files or runs, and those that are key.path=value: a file of such a name is a file."""
    overrides = [word for word in words if _OVERRIDE.fullmatch(word) and not os.path.exists(word)]
    return [word for word in words if word not in overrides], overrides
