"""The corpus read and regrouped by prompt: a Ray task a file."""

from __future__ import annotations

import json
import math

from trace_ray.config import Config
from trace_ray.corpus.blocks import SourceGroup, block_count, finished_groups, pairs_a_row, regroup
from trace_ray.corpus.files import count_rows
from trace_ray.corpus.read import Source
from trace_ray.errors import UserError
from trace_ray.pairs import Split
from trace_ray.runtime.progress import Meter
from trace_ray.triage.block import merge_counts
from trace_ray.triage.publish import ReadRows
from trace_ray.triage.running import by_tasks
from trace_ray.triage.unread import refuse_unread
from trace_ray.triage.work import PLAN, Work


def read_corpus(config: Config, sources: list[Source], work: Work) -> ReadRows:
    """Regroups the files that are not yet regrouped; returns what all of them hold.

    Raises: UserError where the corpus holds no row, or no pair.
    """
    groups = _groups(sources, config.corpus.limit)
    place = work.place / PLAN
    if not place.exists():
        counted = sum(by_tasks(_count_group, groups, num_cpus=0.5))
        place.write_text(json.dumps({"rows": counted, "pairs_a_row": pairs_a_row(sources, config.corpus)}))
    plan = json.loads(place.read_text())
    rows = int(plan["rows"])
    if rows == 0:
        raise UserError("corpus.paths", list(config.corpus.paths), "the corpus holds no row")
    blocks = block_count(math.ceil(rows * plan["pairs_a_row"]), config.corpus.rows_per_part)
    tallies = list(finished_groups(work.chunks).items())
    todo = [group for group in groups if group.name not in dict(tallies)]
    with Meter("triage: read", rows) as meter:
        meter.skip(sum(tally["rows"] for _, tally in tallies))
        for tally in by_tasks(regroup, todo, config.corpus, blocks, work.chunks, work.rejects):
            tallies.append(("", tally))
            meter.advance(tally["rows"])
    refuse_unread(groups, finished_groups(work.chunks), config.corpus)
    total = merge_counts([tally for _, tally in tallies])
    if total["rows"] != rows:
        raise RuntimeError(f"triage lost rows: {rows} counted, {total['rows']} read")
    return ReadRows(rows, total["row_sum"], blocks, total["extra"])


def _groups(sources: list[Source], limit: int) -> list[SourceGroup]:
    """A limit counts over the training files in order, so one task reads them all; otherwise one task a file."""
    train = [source for source in sources if source.split != Split.TEST]
    rest = [(source,) for source in sources if source.split == Split.TEST]
    first = [tuple(train)] if limit else [(source,) for source in train]
    limits = [limit] * len(first) + [0] * len(rest)
    return [SourceGroup(i, group, most) for i, (group, most) in enumerate(zip([*first, *rest], limits, strict=True))]


def _count_group(group: SourceGroup) -> int:
    rows = sum(count_rows(source.place) for source in group.sources)
    return min(rows, group.limit) if group.limit else rows
