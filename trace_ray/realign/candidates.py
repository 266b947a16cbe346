"""Candidates of a selection: the adapter as it was after some steps, in realign/selection/, written once and for all.

candidates/step-000060/adapter/   as PEFT writes it
candidates/step-000060.json       its step and hash, written last: what has it is whole, and never written again
stop.json                         the step after which no candidate can be kept: training ends
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from trace_ray.realign.checkpoint import ADAPTER, save_adapter
from trace_ray.runs.artifacts import Run
from trace_ray.runs.validations import SELECTION
from trace_ray.storage.location import Location, upload_files
from trace_ray.storage.staging import download_folder

CANDIDATES, STOP = "candidates", "stop.json"
_WEIGHTS = "adapter_model.safetensors"


def selection_place(run: Run) -> Location:
    return run.realign.place / SELECTION


def candidate_name(step: int) -> str:
    """Returns the name of a step's candidate; names sort as steps do.

    >>> candidate_name(60)
    'step-000060'
    """
    return f"step-{step:06d}"


def candidate_place(run: Run, step: int) -> Location:
    """Returns a candidate's folder."""
    return selection_place(run) / CANDIDATES / candidate_name(step)


def candidates(run: Run) -> dict[int, str]:
    """Returns {step: hash of its adapter} of those that are whole, in order."""
    told = [json.loads(file.read_text()) for file in (selection_place(run) / CANDIDATES).files(".json")]
    return {int(line["step"]): str(line["sha256"]) for line in told}


def write_candidate(run: Run, model: Any, weights: dict[str, Any], step: int) -> None:
    """Writes the adapter's ``weights`` (whole) as a step's candidate; one that is there stays as it is."""
    place = candidate_place(run, step)
    marker = selection_place(run) / CANDIDATES / f"{place.name}.json"
    if marker.exists():  # a resumed training makes its last steps again, and what was judged must stay what is exported
        return
    with tempfile.TemporaryDirectory(prefix="trace-ray-candidate-") as folder:
        save_adapter(model, weights, Path(folder) / ADAPTER)
        _publish(Path(folder), place, marker, step)


def write_scaled(run: Run, adapter: Location, percent: int) -> None:
    """Writes a candidate of the selection of scales (``selection.scales``): an adapter whose change is so much of another's.

    The change is scale B A; B is what is scaled.

    Args:
        adapter: the other's folder.
    """
    from safetensors.torch import load_file, save_file

    place = candidate_place(run, percent)
    marker = selection_place(run) / CANDIDATES / f"{place.name}.json"
    if marker.exists():
        return
    with tempfile.TemporaryDirectory(prefix="trace-ray-candidate-") as folder:
        with download_folder(adapter) as there:
            shutil.copytree(there, Path(folder) / ADAPTER)
        file = Path(folder) / ADAPTER / _WEIGHTS
        weights = load_file(file)
        scaled = {n: (w.double() * (percent / 100)).to(w) if ".lora_B." in n else w for n, w in weights.items()}
        save_file(scaled, file)
        _publish(Path(folder), place, marker, percent)


def _publish(folder: Path, place: Location, marker: Location, step: int) -> None:
    digest = hashlib.sha256((folder / ADAPTER / _WEIGHTS).read_bytes()).hexdigest()
    upload_files(folder, place)
    marker.write_text(json.dumps({"step": step, "sha256": digest}))


def drop_others(run: Run, kept: int) -> None:
    """Deletes the adapters of all candidates but one; what was measured of them stays."""
    for step in candidates(run):
        if step != kept:
            candidate_place(run, step).delete_folder()


def ask_to_stop(run: Run, step: int) -> None:
    """Tells the training that what follows ``step`` cannot be kept."""
    (selection_place(run) / STOP).write_text(json.dumps({"step": step}))


def asked_to_stop(run: Run) -> bool:
    """Returns whether training has been told so."""
    return (selection_place(run) / STOP).exists()


def is_candidate(step: int, every: int, *, over: bool) -> bool:
    """Returns whether a step's weights are a candidate: every so many steps, and the last; none where ``every`` is 0.

    >>> [step for step in range(1, 8) if is_candidate(step, 3, over=step == 7)]
    [3, 6, 7]
    """
    return every > 0 and (step % every == 0 or over)
