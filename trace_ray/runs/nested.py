"""A run within a run: a stage's work on a part of it, or on what a part of it has become."""

from __future__ import annotations

from dataclasses import dataclass

from trace_ray.runs.artifacts import Artifact, Run
from trace_ray.storage.location import Location


@dataclass(frozen=True)
class NestedRun(Run):
    """A run of which one artifact lies elsewhere.

    Args:
        name: of the artifact; elsewhere: its folder.

    >>> from trace_ray.config import StorageConfig
    >>> from trace_ray.storage.location import locate
    >>> run = Run(locate("/runs/one", StorageConfig()))
    >>> nested = NestedRun(run.place, "triaged", run.realign.place / "chosen")
    >>> nested.triaged.place.path, nested.scored.place.path
    ('/runs/one/realign/chosen', '/runs/one/scored')
    """

    name: str
    elsewhere: Location

    def artifact(self, name: str) -> Artifact:
        return Artifact(self.elsewhere) if name == self.name else super().artifact(name)
