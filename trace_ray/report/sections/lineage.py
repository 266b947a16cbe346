"""Where every number comes from: policy, data, models, code, configuration, and the command that makes it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from trace_ray.config import Config, judge_name
from trace_ray.config.check import triage_judges
from trace_ray.config.load import dump_config
from trace_ray.config.policy import policy_hash, policy_text
from trace_ray.runs.artifacts import CONFIG, EVALUATION_METRICS, Artifact, Run, read_json

_FROM = {"impact": "triaged", "scored": "triaged", "realign": "scored", "model": "scored", "evaluation": "model"}


@dataclass(frozen=True)
class Link:
    """One artefact and what it was made from."""

    name: str
    inputs_hash: str
    made_from: str
    code_version: str
    finished: str


@dataclass(frozen=True)
class Step:
    """An earlier run whose model this one starts from; ``agreement`` is its own, base to realigned, None if unmeasured."""

    run: str
    policy: str
    method: str
    agreement: tuple[float, float] | None


@dataclass(frozen=True)
class Lineage:
    """Everything needed to trace a number to rows and to make the run again.

    Args:
        noise: {kind: training rows whose labels were damaged on purpose}; empty without ``corpus.noise``.
        steps: earlier runs, first one first.
    """

    policy_name: str
    policy_version: str
    policy_hash: str
    policy_text: str
    corpus: list[tuple[str, str]]
    models: list[tuple[str, str]]
    noise: Mapping[str, int]
    links: list[Link]
    steps: list[Step]
    config: str
    command: str


def lineage_section(run: Run, config: Config) -> Lineage:
    """Returns the lineage of whatever is finished."""
    artefacts = (run.triaged, run.impact, run.scored, run.realign, run.model, run.evaluation)
    return Lineage(
        policy_name=config.policy.name or "unnamed",
        policy_version=config.policy.version,
        policy_hash=policy_hash(config.policy),
        policy_text=policy_text(config.policy),
        corpus=_corpus(run),
        models=_models(config),
        noise=run.scored.manifest().get("noise") or {} if run.scored.done() else {},
        links=[_link(artefact) for artefact in artefacts if artefact.done()],
        steps=_steps(run),
        config=dump_config(config),
        command=_command(run),
    )


def _command(run: Run) -> str:
    """-c reads local files; where the run is in S3, its configuration is at hand on the page."""
    place = run.place / CONFIG
    if place.is_local:
        return f"trace-ray run -c {shlex.quote(place.path)} --run runs/again"
    return "# save the configuration below as again.yaml, then\ntrace-ray run -c again.yaml --run runs/again"


def _corpus(run: Run) -> list[tuple[str, str]]:
    inputs = run.triaged.manifest()["inputs"] if run.triaged.done() else {}
    prefix = "corpus file "
    return sorted((name.removeprefix(prefix), value) for name, value in inputs.items() if name.startswith(prefix))


def _models(config: Config) -> list[tuple[str, str]]:
    named = [("model to realign", config.model.path, config.model.revision)]
    judges = {name.replace(".", " ").replace("_", " "): judge for name, judge in triage_judges(config.triage).items()}
    for role, judge in (judges | {"evaluation judge": config.evaluate.judge}).items():
        unset = judge.backend != "rules" and not judge.model
        named.append(
            (
                role,
                "not set" if unset else judge_name(judge),
                "main" if unset or judge.backend == "rules" else judge.revision,
            )
        )
    return [(role, path if revision == "main" else f"{path} @ {revision}") for role, path, revision in named if path]


def _steps(run: Run) -> list[Step]:
    metrics = read_json(run.evaluation.place / EVALUATION_METRICS) if run.evaluation.done() else {}
    steps = []
    for step in metrics.get("lineage", []):
        policy, tpa = step["policy"], step["tpa"]
        agreement = (tpa["base"], tpa["realigned"]) if tpa else None
        steps.append(Step(step["run"], f"{policy['name']} {policy['version']}", step["method"], agreement))
    return steps


def _link(artefact: Artifact) -> Link:
    manifest = artefact.manifest()
    source = _FROM.get(artefact.name)
    made_from = f"{source} {manifest['inputs'].get(source, '')}" if source else "corpus and policy"
    return Link(
        artefact.name, manifest["inputs_hash"], made_from.strip(), manifest["code_version"], manifest["finished"]
    )
