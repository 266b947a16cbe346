"""The corpus read and regrouped by prompt: tasks read units of the files into runs, others collect the runs' pieces."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any

import numpy as np

from trace_ray.cluster.tasks import by_tasks
from trace_ray.config import CorpusConfig, TriageConfig
from trace_ray.config.gpus import judging_pools
from trace_ray.corpus.blocks import BlockFiles, block_count, power_of_two, records, write_piece
from trace_ray.corpus.read import Source
from trace_ray.corpus.runs import read_group
from trace_ray.corpus.sources import hub_commits
from trace_ray.corpus.units import (
    UNKNOWN,
    SourceGroup,
    Unit,
    count_unit,
    counted,
    cut,
    grouped,
    limited,
    outline,
    piece_bytes,
    unit_of,
)
from trace_ray.errors import UserError
from trace_ray.judges.backends import needs_model_to_judge
from trace_ray.runtime.progress import Meter
from trace_ray.storage.traffic import Traffic
from trace_ray.triage.account import ReadRows, Refused
from trace_ray.triage.running import in_order
from trace_ray.triage.unread import refuse_unread
from trace_ray.triage.work import Work

PLAN, READ = "reading.json", "read.json"
"""In triaged/work/: how the corpus is cut; what it held and where its blocks lie, once all is regrouped."""
_EARLIER = "plan.json"
_BLOCKS_A_JUDGE = 20
"""So that the end of a triage is not one judge working."""


def read_corpus(corpus: CorpusConfig, triage: TriageConfig, sources: Sequence[Source], work: Work) -> ReadRows:
    """Regroups what is not yet regrouped; returns what all files hold.

    Raises: UserError where the corpus holds no row, or no pair.
    """
    if not (work.place / READ).exists():
        plan = _planned(corpus, sources, work)
        known = {source.index: source for source in sources}
        groups = [SourceGroup.of(i, list(map(unit_of, units)), known) for i, units in enumerate(plan["groups"])]
        tallies = _read(corpus, groups, plan, work)
        if not sum(tally["rows"] for tally in tallies.values()):
            raise UserError("corpus.paths", list(corpus.paths), "the corpus holds no row")
        refuse_unread(groups, tallies, corpus)
        (work.place / READ).write_text(
            json.dumps(_regrouped(corpus.rows_per_part, triage, plan["pieces"], tallies, work))
        )
        work.runs.delete_folder()
    kept = json.loads((work.place / READ).read_text())
    refused = Refused(kept["reasons"], kept["refused_sum"], kept["parts"])
    bounds = [(start, stop) for start, stop in kept["bounds"]]
    files = BlockFiles(work.pieces, kept["pieces"], bounds)
    return ReadRows(
        kept["rows"],
        kept["row_sum"],
        len(bounds),
        kept["extra"],
        refused,
        files,
        kept["requests"],
        hub_commits(sources),
    )


def _planned(corpus: CorpusConfig, sources: Sequence[Source], work: Work) -> dict[str, Any]:
    """Returns how the corpus is cut: bytes of a piece, how many pieces, the groups' units; written once."""
    place = work.place / PLAN
    if not place.exists():
        _refuse_earlier(work)
        outlines = in_order(outline, sources)
        total = sum(found.size for found in outlines)
        piece, known = piece_bytes(total), {source.index: source for source in sources}
        units = [
            unit for source, found in zip(sources, outlines, strict=True) for unit in cut(source.index, found, piece)
        ]

        def count(some: Sequence[Unit]) -> list[int]:
            return in_order(_count, [(unit, known[unit.file]) for unit in some], in_task=1)

        units = limited(counted(units, count, bool(corpus.limit)), known, corpus.limit)
        groups = [[astuple(unit) for unit in group.units] for group in grouped(units, known, piece)]
        pieces = power_of_two(sum(unit.size for unit in units) / piece)
        place.write_text(json.dumps({"piece": piece, "pieces": pieces, "groups": groups}))
    plan: dict[str, Any] = json.loads(place.read_text())
    return plan


def _refuse_earlier(work: Work) -> None:
    if (work.place / _EARLIER).exists():
        remedy = (
            "an earlier version of trace-ray left this triage unfinished: go on with that one, or use another --run"
        )
        raise UserError(work.place.uri, _EARLIER, remedy)


def _count(asked: tuple[Unit, Source]) -> int:
    return count_unit(*asked)


def _read(
    corpus: CorpusConfig, groups: Sequence[SourceGroup], plan: Mapping[str, Any], work: Work
) -> dict[str, dict[str, Any]]:
    """Reads the groups that are not yet read; returns {name: record} of all."""
    tallies = {tally["group"]: tally for tally in records(work.runs)}
    todo = [group for group in groups if group.name not in tallies]
    rows = [unit.rows for group in groups for unit in group.units]
    with Meter("triage: read", 0 if UNKNOWN in rows else sum(rows)) as meter:
        meter.skip(sum(tally["rows"] for tally in tallies.values()))
        shared = (corpus, plan["pieces"], plan["piece"], work.runs, work.rejects)
        for tally in by_tasks(read_group, todo, *shared):
            tallies[tally["group"]] = tally
            meter.advance(tally["rows"])
    return tallies


def _regrouped(
    rows_per_part: int, triage: TriageConfig, pieces: int, tallies: Mapping[str, Mapping[str, Any]], work: Work
) -> dict[str, Any]:
    """Collects the pieces that are not yet collected; returns what is kept of the reading."""
    total, reasons, requests = Counter[str](), Counter[str](), Traffic()
    requests.own("read")
    for tally in tallies.values():
        requests.add("read", tally["traffic"])
        total.update({name: tally[name] for name in ("rows", "extra", "rejects", "row_sum", "refused_sum")})
        reasons.update(tally["reasons"])
    pairs = total["rows"] + total["extra"] - total["rejects"]
    blocks = block_count(pairs, rows_per_part, max(pieces, pool_blocks(triage, pairs)))
    done = {record["piece"]: record for record in records(work.pieces) if record["blocks"] == blocks}
    runs = {name: np.array(bounds) for tally in tallies.values() for name, bounds in tally["runs"].items()}
    with Meter("triage: regroup", pairs, "pairs") as meter:
        meter.skip(sum(record["pairs"] for record in done.values()))
        todo = [piece for piece in range(pieces) if piece not in done]
        for record in by_tasks(write_piece, todo, pieces, blocks, runs, work.runs, work.pieces):
            done[record["piece"]] = record
            meter.advance(record["pairs"])
    requests.own("regroup")
    for record in done.values():
        requests.add("regroup", record["traffic"])
    if (found := sum(record["pairs"] for record in done.values())) != pairs:
        raise RuntimeError(f"triage lost rows: {pairs} pairs read, {found} regrouped")
    parts = [part for tally in tallies.values() for part in tally["parts"]]
    bounds = [bound for piece in range(pieces) for bound in done[piece]["bounds"]]
    kept = {"reasons": dict(reasons), "parts": parts, "pieces": pieces, "bounds": bounds}
    return dict(total) | kept | {"requests": requests.told()}


def pool_blocks(triage: TriageConfig, pairs: int) -> int:
    """Returns the blocks that a pool of judges wants: 20 for each, but none smaller than what one call judges.

    >>> from trace_ray.config import JudgeConfig
    >>> judge = JudgeConfig(backend="vllm", max_actors=8)
    >>> [pool_blocks(TriageConfig(judge=judge), pairs) for pairs in (500, 10_000, 10_000_000)]
    [2, 64, 256]
    """
    pool = max(judging_pools(triage).values(), key=lambda pool: pool.max_actors)
    if pool.max_actors < 2 or not needs_model_to_judge(triage):
        return 1
    most = max(1, 2 * pairs // pool.batch_rows)
    return min(power_of_two(_BLOCKS_A_JUDGE * pool.max_actors), power_of_two(most + 1) // 2 or 1)
