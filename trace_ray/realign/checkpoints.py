"""A training's checkpoints as the driver finds them: Ray Train's list of them, and which are still whole."""

from __future__ import annotations

import json
from typing import Any

import pyarrow.fs as pafs

from trace_ray.realign.checkpoint import CURSOR, FILES
from trace_ray.runs.artifacts import Run
from trace_ray.runtime.progress import warn
from trace_ray.storage.location import Location

CHECKPOINTS = "checkpoints"
SNAPSHOT = "checkpoint_manager_snapshot.json"
"""Ray Train's name for its list of a run's checkpoints."""


def damage(folder: Location) -> str:
    """Returns what a checkpoint's folder lacks of what was saved, in words; empty where it is whole."""
    if not (folder / CURSOR).exists():
        return "no cursor.json" if folder.exists() else "no such folder"
    try:
        saved = json.loads((folder / CURSOR).read_text()).get(FILES, {})  # checkpoints of older versions name none
    except ValueError:
        return f"{CURSOR} is cut short"
    found = folder.fs.get_file_info(pafs.FileSelector(folder.path, recursive=True))
    sizes = {info.path[len(folder.path.rstrip("/")) + 1 :]: info.size for info in found}
    for name, size in saved.items():
        if sizes.get(name) != size:
            return f"{name} is gone" if name not in sizes else f"{name} has {sizes[name]} of {size} bytes"
    return ""


def drop_damaged(run: Run) -> None:
    """Takes damaged checkpoints from Ray Train's list, and says so: it would try the last one again and again.

    Training goes on from the last that is whole, and begins anew where none is, or where a full disk or a lost machine cut
    the list itself short.
    """
    place = run.realign.place / CHECKPOINTS / SNAPSHOT
    if not place.exists():
        return
    try:
        state = json.loads(place.read_text())
    except ValueError:
        warn(f"{place.uri}: cut short, as by a full disk; the training begins anew")
        place.fs.delete_file(place.path)
        return
    listed = list(zip(state.get("checkpoint_results", []), state.get("checkpoint_report_indices", []), strict=False))
    folder = run.realign.place / CHECKPOINTS
    broken = {result["checkpoint_dir_name"]: damage(folder / result["checkpoint_dir_name"]) for result, _ in listed}
    whole = [(result, index) for result, index in listed if not broken[result["checkpoint_dir_name"]]]
    if len(whole) == len(listed):
        return
    after = f"the training goes on from {whole[-1][0]['checkpoint_dir_name']}" if whole else "the training begins anew"
    for name, why in broken.items():
        if why:
            warn(f"{(folder / name).uri}: {why}; {after}")
            (folder / name).delete_folder()
    if not whole:
        place.fs.delete_file(place.path)
        return
    state |= {"checkpoint_results": [result for result, _ in whole], "checkpoint_report_indices": [i for _, i in whole]}
    place.write_text(json.dumps(state | {"latest_checkpoint_result": whole[-1][0]}))


def drop_strays(run: Run, result: Any) -> None:
    """Deletes checkpoints that a killed worker wrote and could not report: Ray Train counts and deletes reported ones."""
    reported = [result.checkpoint, *(checkpoint for checkpoint, _ in result.best_checkpoints or [])]
    kept = {checkpoint.path.rstrip("/").rsplit("/", 1)[-1] for checkpoint in reported}
    place = run.realign.place / CHECKPOINTS
    for info in place.fs.get_file_info(pafs.FileSelector(place.path, allow_not_found=True)):
        folder = info.type == pafs.FileType.Directory
        if folder and info.base_name.startswith("checkpoint_") and info.base_name not in kept:
            (place / info.base_name).delete_folder()
