"""A run's folder on any filesystem: begin, write parts, publish (manifest, then _DONE last), refuse stale resumption."""

from __future__ import annotations

import hashlib
import json
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from trace_ray.errors import StaleRunError, UserError
from trace_ray.runs.code_version import code_version
from trace_ray.runs.weights import WEIGHTS, read_part
from trace_ray.storage.location import Location

Inputs = Mapping[str, Any]
Changes = dict[str, tuple[Any, Any]]
"""Input's name -> its value before and now."""

STAGES = ("triage", "impact", "realign", "evaluate", "report")
EXPORT = "export"
"""The end of realign, which can be asked for alone."""
ANSWERS = "answers"
"""What a further round begins with, and its folder."""
MANIFEST, DONE, INPUTS, CONFIG = "manifest.json", "_DONE", "inputs.json", "config.yaml"
TRAINING_METRICS, EVALUATION_METRICS = "metrics.jsonl", "metrics.json"
"""In realign/, a line a step; in evaluation/."""
REFUSED = "refused"
"""In impact/ and evaluation/: rows and prompts that the policy model cannot be given, in REJECT_SCHEMA."""
ADAPTER_INIT, SCORES = "adapter_init", "scores"
"""In impact/: the adapter that scoring and training start from; a tally a scored shard, which says that it is done."""
GENERATED, RESPONSES = "generated", "responses"
"""In evaluation/: both models' answers; those to the held-out prompts, judged."""
AUDIT_FILE, WORK, CANARIES = "audit.json", "work", "canaries.json"
"""In triaged/, or beside it where the audit was made afterwards; triaged/work/, while triage is at it; in that folder. First
and last in evaluation/ too."""
REVIEW = "review"
"""Beside triaged/: its undecided rows for people to label, a file of JSON lines a block."""
GATES, VERDICTS, DECIDED, AGAIN = "gates.json", "verdicts", "part-block-", "again"
DISTILLED = "distilled.json"
"""In triaged/: limits that the judges were held to (``judges.gates.Gate``); what they said, a file a block, kept to be decided
again; how decided parts' names begin. In triaged/work/: a finished triage is being decided again."""

_PUBLISHED: dict[str, Any] = {
    "counts": dict,
    "inputs": dict,
    "inputs_hash": str,
    "parts": list,
    "seconds": (int, float),
}
"""What every manifest holds, whatever the stage."""


def inputs_hash(inputs: Inputs) -> str:
    """Returns 16 hex digits over every input of a stage."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]


def read_json(place: Location) -> dict[str, Any]:
    """Returns an object that trace-ray wrote. Raises UserError where it is gone, cut short or something else."""
    try:
        value = json.loads(place.read_text())
    except (FileNotFoundError, ValueError):
        value = None
    if not isinstance(value, dict):
        remedy = "it is damaged or gone; delete its folder's _DONE, or the folder, and run again"
        raise UserError(place.uri, "no JSON object", remedy)
    return value


@dataclass(frozen=True)
class Artifact:
    """One folder of a run, such as triaged/: unfinished until it holds _DONE.

    Args:
        place: the folder.
    """

    place: Location

    @property
    def name(self) -> str:
        return self.place.name

    def done(self) -> bool:
        return (self.place / DONE).exists()

    def manifest(self) -> dict[str, Any]:
        """Returns what was published. Raises UserError where the stage has not finished, or the manifest is damaged."""
        if not self.done():
            raise UserError(self.place.uri, "not finished", f"run the stage that writes {self.name}/ first")
        place = self.place / MANIFEST
        manifest = read_json(place)
        lacking = [name for name, kind in _PUBLISHED.items() if not isinstance(manifest.get(name), kind)]
        if lacking:
            remedy = "it is damaged, or another program's; delete its folder, and run again"
            raise UserError(place.uri, f"no {', no '.join(lacking)}", remedy)
        return manifest

    def begin(self, inputs: Inputs) -> bool:
        """Claims the folder for these inputs.

        Returns: False where it is already finished from the same inputs: nothing to do.
        Raises: StaleRunError, naming the input and both values, where it was begun from others.
        """
        record = self.place / INPUTS
        if record.exists():
            refuse_changed(self.place.uri, self.changes(inputs))
            return not self.done()
        self.place.make()
        self.adopt(inputs)
        return True

    def adopt(self, inputs: Inputs) -> None:
        """Records other inputs of a folder that stays: of those that changed, nothing in it was made."""
        (self.place / INPUTS).write_text(json.dumps(json.loads(json.dumps(inputs)), indent=1, sort_keys=True))

    def reopen(self) -> None:
        """Makes a finished folder an unfinished one."""
        self.place.fs.delete_file((self.place / DONE).path)

    def changes(self, inputs: Inputs) -> Changes:
        """Returns the inputs that differ from those that the folder was begun with; none where it was not begun."""
        record = self.place / INPUTS
        return _changes(read_json(record), json.loads(json.dumps(inputs))) if record.exists() else {}

    def changed_settings(self, settings: Inputs) -> Changes:
        """Returns the settings that differ from those that the folder was begun under; other inputs are ``changes``'.

        Args:
            settings: {dotted name: value}, and more names that are to be alike.
        """
        record = self.place / INPUTS
        if not record.exists():
            return {}
        now = json.loads(json.dumps(settings))
        sections = {name.partition(".")[0] for name in now}
        before = {
            name: value
            for name, value in read_json(record).items()
            if name in now or (" " not in name and "." in name and name.partition(".")[0] in sections)
        }
        return _changes(before, {name: now[name] for name in before if name in now})

    def parts(self) -> list[Location]:
        """Returns the part files that exist, in name order."""
        return self.place.files(".parquet")

    def read(self, columns: list[str] | None = None) -> pa.Table:
        """Returns all published parts as one table, in part order; null where a part of an older trace-ray lacks a column."""
        return pa.concat_tables(self.tables(columns), promote_options="default")

    def tables(self, columns: list[str] | None = None, younger: Sequence[str] = ()) -> Iterator[pa.Table]:
        """Yields the published parts in order, each read when it is asked for, scored pairs with their weights.

        Args:
            younger: further columns, which parts of an older trace-ray may lack: null there.
        """
        manifest = self.manifest()
        for name in manifest["parts"]:
            yield read_part(self.place / name, columns, manifest.get(WEIGHTS), younger)

    def publish(
        self, *, counts: Mapping[str, Any], seconds: float, schema: pa.Schema | None = None, **facts: Any
    ) -> None:
        """Writes the manifest and, after it, _DONE. An artefact of no rows still gets one empty part.

        Args:
            counts: rows by kind.
            seconds: time this process spent on the stage.
            schema: of the parts, needed only where there may be none.
            facts: whatever else should be traceable: models, tokens, hashes.
        """
        if schema is not None and not self.parts():
            (self.place / "part-empty.parquet").write_parquet(schema.empty_table())
        inputs = json.loads((self.place / INPUTS).read_text())
        manifest = {
            "code_version": code_version(),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "inputs_hash": inputs_hash(inputs),
            "inputs": inputs,
            "counts": dict(counts),
            "seconds": round(seconds, 2),
            "parts": [part.name for part in self.parts()],
            **facts,
        }
        (self.place / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True))
        (self.place / DONE).write_text("")


def _changes(before: Inputs, now: Inputs) -> Changes:
    both = {name: (before.get(name, "absent"), now.get(name, "absent")) for name in {*before, *now}}
    return {name: (was, seen) for name, (was, seen) in both.items() if was != seen}


def refuse_changed(uri: str, changes: Changes) -> None:
    """Raises StaleRunError where an input has changed, naming the first of them."""
    for name, (was, seen) in sorted(changes.items()):
        remedy = f"this run was begun with {was!r}; use the same value, or another --run folder"
        raise StaleRunError(f"{uri}: {name}", repr(seen), remedy)


@dataclass(frozen=True)
class Run:
    """A run's folder.

    Args:
        place: where it is; it need not exist yet.
    """

    place: Location

    def artifact(self, name: str) -> Artifact:
        return Artifact(self.place / name)

    def made_by(self, stage: str) -> tuple[Artifact, ...]:
        """Returns the folders that a stage publishes."""
        return {
            "triage": (self.rejects, self.triaged),
            "impact": (self.impact, self.scored),
            "realign": (self.realign, self.model),
            EXPORT: (self.model,),
            "evaluate": (self.evaluation,),
            "report": (),
            ANSWERS: (self.answers,),
        }[stage]

    @property
    def triaged(self) -> Artifact:
        return self.artifact("triaged")

    @property
    def rejects(self) -> Artifact:
        return self.artifact("rejects")

    @property
    def impact(self) -> Artifact:
        return self.artifact("impact")

    @property
    def scored(self) -> Artifact:
        return self.artifact("scored")

    @property
    def realign(self) -> Artifact:
        return self.artifact("realign")

    @property
    def model(self) -> Artifact:
        return self.artifact("model")

    @property
    def evaluation(self) -> Artifact:
        return self.artifact("evaluation")

    @property
    def answers(self) -> Artifact:
        return self.artifact(ANSWERS)

    @property
    def report(self) -> Location:
        return self.place / "report.html"

    @property
    def shell_word(self) -> str:
        """Returns the folder as a shell takes it in a command."""
        return shlex.quote(self.place.path if self.place.is_local else self.place.uri)

    def write_config(self, text: str) -> None:
        (self.place / CONFIG).write_text(text)
