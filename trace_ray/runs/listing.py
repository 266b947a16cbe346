"""The runs in a folder: what each was for and how far it is, without loading its configuration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow.fs as pafs

from trace_ray.config.sources import parse
from trace_ray.errors import UserError
from trace_ray.runs.artifacts import CONFIG, Run
from trace_ray.runs.status import DRIVER, status
from trace_ray.storage.location import Location


def runs_in(place: Location) -> Iterator[dict[str, Any]]:
    """Yields {run, policy, method, model, state} of each folder that holds a run's configuration, by name.

    ``state`` is ``done``, the artefacts that are not, or what is damaged. Raises: UserError where there is no folder.
    """
    if place.fs.get_file_info(place.path).type == pafs.FileType.NotFound and place.is_local:
        raise UserError("runs list", place.uri, "no such folder")
    found = place.fs.get_file_info(pafs.FileSelector(place.path, allow_not_found=True))
    for name in sorted(entry.base_name for entry in found if entry.type == pafs.FileType.Directory):
        run = Run(place / name)
        if (run.place / CONFIG).exists():
            yield {"run": name, **_about(run), "state": _state(run)}


def _about(run: Run) -> dict[str, str]:
    """A run of another version, or a damaged one, is listed all the same."""
    try:
        config = parse((run.place / CONFIG).read_text())
    except ValueError:
        config = None
    wanted = {"policy": ("policy", "name"), "method": ("objective", "method"), "model": ("model", "path")}
    return {name: _within(config, path) for name, path in wanted.items()}


def _within(node: Any, path: tuple[str, ...]) -> str:
    for key in path:
        node = node.get(key) if isinstance(node, dict) else None
    return "?" if node is None else str(node)


def _state(run: Run) -> str:
    rows = list(status(run))
    left = [f"{name} {state}" for name, state, _ in rows if state not in ("done", "-")]
    missing = [name for name, state, _ in rows if state == "-" and name != DRIVER]
    return ", ".join([*left, *([f"no {missing[0]} yet"] if missing and not left else [])]) or "done"
