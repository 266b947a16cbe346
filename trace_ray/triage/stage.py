"""Stage 1 on Ray Data: files stream through a pool of judge actors into part files; a resume redoes no finished part."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trace_ray import metrics
from trace_ray.artifacts import Run
from trace_ray.cluster import ensure_ray
from trace_ray.config import Config, settings
from trace_ray.corpus.read import Source, count_rows, read_sources
from trace_ray.errors import UserError
from trace_ray.judges.backends import Judge, make_judge
from trace_ray.pairs import REJECT_SCHEMA, TRIAGED_SCHEMA, Split
from trace_ray.policy import policy_hash
from trace_ray.progress import Meter
from trace_ray.storage import Location, expand
from trace_ray.triage.audit import FROM_PAIRS, Label, Labelled, audit, labelled_pairs, read_labels, refuse_bad_judge
from trace_ray.triage.block import triage_block

AUDIT_FILE = "audit.json"


def triage_inputs(config: Config, sources: list[Source]) -> dict[str, Any]:
    """Returns everything that a triaged row depends on."""
    corpus = {f"corpus file {s.place.name} ({s.split or 'train'})": s.place.fingerprint() for s in sources}
    kept = settings(config.corpus, "corpus") | settings(config.triage, "triage")
    for moved in ("corpus.paths", "corpus.test_paths"):
        kept.pop(moved)
    return {"policy": f"{config.policy.name} {policy_hash(config.policy)}", **kept, **corpus}


def corpus_sources(config: Config) -> list[Source]:
    """Returns the corpus' files in order, training files first."""
    corpus = config.corpus
    train = expand(corpus.paths, config.storage, "corpus.paths")
    test = expand(corpus.test_paths, config.storage, "corpus.test_paths")
    holdout = 0.0 if test else corpus.holdout
    kinds = [(place, "") for place in train] + [(place, Split.TEST.value) for place in test]
    return [Source(place, i, split, holdout, corpus.format) for i, (place, split) in enumerate(kinds)]


def run_triage(run: Run, config: Config) -> None:
    """Writes triaged/ and rejects/. Raises JudgeRejectedError where the audit refuses the judge."""
    sources = corpus_sources(config)
    inputs = triage_inputs(config, sources)
    started = time.monotonic()
    begun = [run.triaged.begin(inputs), run.rejects.begin(inputs)]
    if not any(begun):
        return
    labels = _labels(config)
    ensure_ray(config.ray)
    groups = _groups(sources, config.corpus.limit)
    total = sum(_totals(groups, config.corpus.limit))
    if total == 0:
        raise UserError("corpus.paths", list(config.corpus.paths), "the corpus holds no row")
    done = _finished_rows(run)
    with Meter("triage", total) as meter:
        meter.skip(len(done))
        seen: list[Labelled] = []
        used: Counter[str] = Counter()
        for part in _stream(run, config, groups, done, labels):
            seen += [Labelled(Label(*one[0]), *one[1:]) for one in json.loads(part["labelled"])]
            used.update(json.loads(part["used"]))
            meter.advance(part["rows"])
            if len(seen) >= config.triage.audit_rows:
                refuse_bad_judge(audit(seen, config.triage.threshold), config.triage.min_auc, config.triage.judge.model)
    _finish(run, config, total, labels, used, started)


def _groups(sources: list[Source], limit: int) -> list[list[Source]]:
    """A limit counts over the training files in order, so one task reads them all; otherwise one task a file."""
    train = [s for s in sources if s.split != Split.TEST]
    rest = [[s] for s in sources if s.split == Split.TEST]
    return [train, *rest] if limit else [[s] for s in train] + rest


def _totals(groups: list[list[Source]], limit: int) -> list[int]:
    import ray

    count = ray.remote(num_cpus=0.5)(count_rows)
    counts = [sum(ray.get([count.remote(source.place) for source in group])) for group in groups]
    return [
        min(n, limit) if limit and group[0].split != Split.TEST else n for n, group in zip(counts, groups, strict=True)
    ]


def _labels(config: Config) -> Mapping[str, Label] | None:
    where = config.triage.audit_labels
    if where in ("", FROM_PAIRS):
        return None if where else {}
    return read_labels(expand((where,), config.storage, "triage.audit_labels")[0])


def _finished_rows(run: Run) -> np.ndarray[Any, Any]:
    rows = [part.read_parquet(["row"])["row"].to_numpy() for a in (run.triaged, run.rejects) for part in a.parts()]
    return np.sort(np.concatenate(rows)) if rows else np.empty(0, np.int64)


def _stream(
    run: Run, config: Config, groups: list[list[Source]], done: np.ndarray[Any, Any], labels: Mapping[str, Label] | None
) -> Iterator[dict[str, Any]]:
    import ray.data

    judge = config.triage.judge
    rows = min(config.corpus.rows_per_part, judge.batch_rows)
    reader = Reader(groups, rows, config.corpus.limit, ray.put(done))
    writer = Writer(run.triaged.place, run.rejects.place, ray.put(labels))
    pool = ray.data.ActorPoolStrategy(min_size=judge.actors, max_size=judge.max_actors)
    dataset = (
        ray.data.from_items([{"group": i} for i in range(len(groups))], override_num_blocks=len(groups))
        .map_batches(reader, batch_size=1, batch_format="pyarrow", num_cpus=0.25)
        .map_batches(
            JudgeActor,
            fn_constructor_args=(config,),
            batch_size=judge.batch_rows,
            batch_format="pyarrow",
            compute=pool,
            num_cpus=judge.num_cpus,
            num_gpus=judge.num_gpus or None,
        )
        .map_batches(writer, batch_size=config.corpus.rows_per_part, batch_format="pyarrow", num_cpus=0.25)
    )
    yield from dataset.iter_rows()


@dataclass(frozen=True)
class Reader:
    """Ray Data task: reads a group of files, leaving out the rows that an earlier process finished."""

    groups: list[list[Source]]
    rows: int
    limit: int
    done: Any

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        import ray

        done = pa.array(ray.get(self.done))
        for index in batch["group"].to_pylist():
            group = self.groups[index]
            limit = self.limit if group[0].split != Split.TEST else 0
            for table in read_sources(group, self.rows, limit):
                yield table.filter(pc.invert(pc.is_in(table["row"], value_set=done)))


class JudgeActor:
    """Ray Data actor: one judge, kept for all the batches it gets."""

    def __init__(self, config: Config) -> None:
        self.judge: Judge = make_judge(config.policy, config.triage.judge)
        self.config = config
        self.before: dict[str, int] = {}

    def __call__(self, block: pa.Table) -> pa.Table:
        judged = triage_block(block, self.judge, self.config.policy, self.config.triage)
        now = self.judge.counts()
        used = {name: value - self.before.get(name, 0) for name, value in now.items()}
        self.before = now
        metrics.count_each("pairs_judged", "category", judged["category"].to_pylist())
        metrics.count_each("rejects", "reason", judged["reason"].to_pylist(), stage="triage")
        metrics.count_judge(used)
        tally = [json.dumps(used)] + [None] * (judged.num_rows - 1) if judged.num_rows else []
        return judged.append_column("used", pa.array(tally, pa.string()))


@dataclass(frozen=True)
class Writer:
    """Ray Data task: writes one part of triaged/ and one of rejects/, named by their first row, so a retry overwrites."""

    triaged: Location
    rejects: Location
    labels: Any

    def __call__(self, block: pa.Table) -> pa.Table:
        import ray

        if not block.num_rows:
            return pa.table(
                {
                    "rows": pa.array([], pa.int64()),
                    "labelled": pa.array([], pa.string()),
                    "used": pa.array([], pa.string()),
                }
            )
        refused = block.filter(pc.is_valid(block["reason"]))
        judged = block.filter(pc.is_null(block["reason"])).select(TRIAGED_SCHEMA.names).sort_by("row")
        if refused.num_rows:
            stage = pa.array(["triage"] * refused.num_rows)
            table = refused.append_column("stage", stage).select(REJECT_SCHEMA.names).cast(REJECT_SCHEMA).sort_by("row")
            (self.rejects / part_name(table)).write_parquet(table)
        if judged.num_rows:
            (self.triaged / part_name(judged)).write_parquet(judged.cast(TRIAGED_SCHEMA))
        used: Counter[str] = Counter()
        for tally in block["used"].drop_null().to_pylist():
            used.update(json.loads(tally))
        labelled = json.dumps(labelled_pairs(judged, ray.get(self.labels)))
        return pa.table({"rows": [block.num_rows], "labelled": [labelled], "used": [json.dumps(used)]})


def part_name(table: pa.Table) -> str:
    """Returns the name of the part that begins with the table's first row."""
    return f"part-{table['row'][0].as_py():016x}.parquet"


def _finish(
    run: Run, config: Config, total: int, labels: Mapping[str, Label] | None, used: Counter[str], started: float
) -> None:
    rows = _finished_rows(run)
    if len(rows) != total or len(np.unique(rows)) != total:
        raise RuntimeError(f"triage lost rows: {total} read, {len(rows)} written, {len(np.unique(rows))} distinct")
    counts: Counter[str] = Counter()
    pairs: list[Labelled] = []
    for part in run.triaged.parts():
        table = part.read_parquet([*TRIAGED_SCHEMA.names])
        counts.update(
            f"{split} {category}"
            for split, category in zip(*(table[n].to_pylist() for n in ("split", "category")), strict=True)
        )
        counts.update({"triaged": table.num_rows, "corrected": table.num_rows - table["corrected"].null_count})
        pairs += labelled_pairs(table, labels)
    reasons = Counter(
        reason for part in run.rejects.parts() for reason in part.read_parquet(["reason"])["reason"].to_pylist()
    )
    figures = audit(pairs, config.triage.threshold) if pairs else None
    if figures:
        (run.triaged.place / AUDIT_FILE).write_text(json.dumps(figures, indent=1))
        refuse_bad_judge(figures, config.triage.min_auc, config.triage.judge.model)
    seconds = time.monotonic() - started
    policy = {"name": config.policy.name, "version": config.policy.version, "hash": policy_hash(config.policy)}
    facts = {"policy": policy, "judge": config.triage.judge.model or config.triage.judge.backend, "used": dict(used)}
    run.rejects.publish(
        counts={"rows_in": total, "rejects": sum(reasons.values()), **reasons}, seconds=seconds, schema=REJECT_SCHEMA
    )
    counts["rows_in"], counts["rejects"] = total, sum(reasons.values())
    run.triaged.publish(counts=counts, seconds=seconds, schema=TRIAGED_SCHEMA, audit=figures, **facts)
