"""Where figures go besides metrics.jsonl, by ``realign.trackers``: TensorBoard, MLflow, Weights & Biases, or a plug-in."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from trace_ray.config.plugins import plugin
from trace_ray.errors import UserError
from trace_ray.runtime.progress import warn
from trace_ray.storage.location import Location

TENSORBOARD = "tensorboard"
DEV = "dev"
"""How figures of candidates begin (``runs.validations``), and the part of the run that they are told as."""
MODULES = {"tensorboard": "tensorboard", "mlflow": "mlflow", "wandb": "wandb"}


class Tracker(Protocol):
    """Takes numbers by step."""

    def log(self, step: int, figures: Mapping[str, float]) -> None: ...

    def flush(self) -> None: ...


def check_trackers(names: tuple[str, ...]) -> None:
    """Raises UserError for a tracker whose package is missing."""
    for name in names:
        if name not in MODULES:
            plugin("trackers", name, "realign.trackers")
        elif importlib.util.find_spec(MODULES[name]) is None:
            raise UserError("realign.trackers", name, f"pip install {MODULES[name]}, or leave it out")


def make_trackers(
    names: tuple[str, ...], place: Location, run_name: str, first_step: int, part: str = ""
) -> list[Tracker]:
    """Returns the trackers; each continues the run of an earlier process.

    Args:
        place: realign/ of the run; TensorBoard's files go below it.
        first_step: what an earlier process logged from here on is void.
        part: of the run, which another process tells than the rest: it becomes a run of its own, RUN/part.
    """
    events = place / TENSORBOARD / part if part else place / TENSORBOARD
    run_name = f"{run_name}/{part}" if part else run_name
    makers: dict[str, Any] = {
        "tensorboard": lambda: TensorBoard(events, first_step),
        "mlflow": lambda: MLflow(run_name),
        "wandb": lambda: WandB(run_name),
    }
    return [
        makers[name]()
        if name in makers
        else plugin("trackers", name, "realign.trackers")(place.uri, run_name, first_step)
        for name in names
    ]


def tell_once(names: tuple[str, ...], place: Location, run_name: str, step: int, figures: Mapping[str, float]) -> None:
    """Logs figures of one step from a process that has no more of them, and lets go of the trackers' runs.

    Args: as of ``make_trackers``; ``step``: among training's.
    """
    for name in names:
        for _ in tell_each(name, place, run_name, [(step, figures)]):
            pass


def tell_each(
    name: str, place: Location, run_name: str, told: Sequence[tuple[int, Mapping[str, float]]], part: str = ""
) -> Iterator[int]:
    """Logs figures by step to one tracker, yields each step that it has taken, and lets go of its run.

    What it does not take, its server being down say, is a warning and the end: the stage goes on, and its figures are kept.

    Args: as of ``make_trackers``; told: one (step, figures) at least.
    """
    step = told[0][0]
    try:
        (tracker,) = make_trackers((name,), place, run_name, 0, part)
        try:
            for step, figures in told:
                tracker.log(step, figures)
                tracker.flush()
                yield step
        finally:
            if isinstance(tracker, Ends):
                tracker.end()
    except Exception as error:  # noqa: BLE001 - another's code, or another's server
        said = " ".join(str(error).split())[:200]
        warn(f"realign.trackers: {name} was not told the figures of step {step}: {type(error).__name__}: {said}")


@runtime_checkable
class Ends(Protocol):
    """A tracker whose run another process can only go on with once this one has let go of it."""

    def end(self) -> None: ...


class TensorBoard:
    """Event files under realign/tensorboard, written beside the run where it is local, else copied at each flush."""

    def __init__(self, place: Location, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.place = place
        self.folder = place.path if place.is_local else tempfile.mkdtemp(prefix="trace-ray-tensorboard-")
        self.writer = SummaryWriter(self.folder, purge_step=first_step or None)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)

    def flush(self) -> None:
        self.writer.flush()
        if not self.place.is_local:
            for file in Path(self.folder).iterdir():
                (self.place / file.name).write_bytes(file.read_bytes())

    def end(self) -> None:
        self.writer.close()


class MLflow:
    """The tracking server and experiment of MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME."""

    def __init__(self, run_name: str) -> None:
        import mlflow

        self.mlflow = mlflow
        tag = _identity(run_name)
        found = mlflow.search_runs(filter_string=f"tags.trace_ray = '{tag}'", output_format="list")
        if found:
            mlflow.start_run(run_id=found[0].info.run_id)
        else:
            mlflow.start_run(run_name=run_name, tags={"trace_ray": tag})

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self.mlflow.log_metrics({name: float(value) for name, value in figures.items()}, step=step)

    def flush(self) -> None:
        """MLflow writes as it logs."""

    def end(self) -> None:
        self.mlflow.end_run()


class WandB:
    """The project of WANDB_PROJECT; the key comes from the environment."""

    def __init__(self, run_name: str) -> None:
        import wandb

        project = os.environ.get("WANDB_PROJECT", "trace-ray")
        self.run = wandb.init(project=project, name=run_name, id=_identity(run_name), resume="allow")
        self.run.define_metric(f"{DEV}*", step_metric=f"{DEV}_step")

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        if all(
            name.startswith(DEV) for name in figures
        ):  # measured in whatever order: W&B takes no earlier step by ``step``
            self.run.log({**figures, f"{DEV}_step": step})
        else:
            self.run.log(dict(figures), step=step)

    def flush(self) -> None:
        """W&B uploads in its own process."""

    def end(self) -> None:
        self.run.finish()


def _identity(run_name: str) -> str:
    """What a resumed run is found by; a folder's name may hold quotes, which a filter cannot."""
    return hashlib.sha256(run_name.encode()).hexdigest()[:12]
