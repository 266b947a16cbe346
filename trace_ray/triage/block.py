"""Triage of one block of rows: judge both responses, name the category, correct where asked. No Ray here."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from trace_ray.config import TriageConfig
from trace_ray.corpus.read import READ_SCHEMA
from trace_ray.judges import rules
from trace_ray.judges.backends import Judge, Opinion
from trace_ray.pairs import TRIAGED_SCHEMA, Category, prompt_text
from trace_ray.policy import PolicyConfig
from trace_ray.triage.verdict import categories

JUDGED_SCHEMA = pa.schema([*TRIAGED_SCHEMA, READ_SCHEMA.field("reason"), READ_SCHEMA.field("detail")])
"""A triaged row or, where ``reason`` is set, a refused one."""


def triage_block(block: pa.Table, judge: Judge, policy: PolicyConfig, config: TriageConfig) -> pa.Table:
    """Returns the block (READ_SCHEMA) judged, in JUDGED_SCHEMA, row for row; refused rows pass through unjudged."""
    block = block.select(READ_SCHEMA.names).cast(READ_SCHEMA)
    pairs = block.filter(pc.is_null(block["reason"]))
    refused = block.filter(pc.is_valid(block["reason"]))
    requests = [prompt_text(prompt) for prompt in pairs["prompt"].to_pylist()]
    chosen, rejected = pairs["chosen"].to_pylist(), pairs["rejected"].to_pylist()
    both = judge.opinions([*requests, *requests], [*chosen, *rejected])
    of_chosen, of_rejected = both[: len(requests)], both[len(requests) :]
    p_chosen, p_rejected = (pa.array([o.p_violates for o in side], pa.float64()) for side in (of_chosen, of_rejected))
    names = categories(p_chosen, p_rejected, config.threshold, config.abstain_band)
    judged = {
        "p_violates_chosen": p_chosen,
        "p_violates_rejected": p_rejected,
        "category": pa.array(names, pa.string()),
        "corrected": pa.array(_corrections(requests, chosen, names, judge, policy, config), pa.string()),
        "judge_error": pa.array(list(map(_error, of_chosen, of_rejected)), pa.string()),
    }
    done = pa.table({**{n: pairs[n] for n in READ_SCHEMA.names}, **judged})
    return pa.concat_tables([_fit(done), _fit(refused)])


def _fit(table: pa.Table) -> pa.Table:
    columns = [
        table[f.name] if f.name in table.column_names else pa.nulls(table.num_rows, f.type) for f in JUDGED_SCHEMA
    ]
    return pa.table(columns, schema=JUDGED_SCHEMA)


def _error(chosen: Opinion, rejected: Opinion) -> str | None:
    errors = [f"{name}: {one.error}" for name, one in (("chosen", chosen), ("rejected", rejected)) if one.error]
    return "; ".join(errors) or None


def _corrections(
    requests: Sequence[str],
    chosen: Sequence[str],
    names: Sequence[str],
    judge: Judge,
    policy: PolicyConfig,
    config: TriageConfig,
) -> list[str | None]:
    """y_c for PUNISH pairs: y_w cut to the word limit, kept only where the judge finds it compliant."""
    limit = rules.word_limit(policy) if config.correct else 0
    kept: list[str | None] = [None] * len(chosen)
    if not limit:
        return kept
    drafts = {i: rules.cut_to_words(chosen[i], limit) for i, name in enumerate(names) if name == Category.PUNISH}
    tried = {i: draft for i, draft in drafts.items() if draft}
    opinions = judge.opinions([requests[i] for i in tried], list(tried.values()))
    for i, opinion in zip(tried, opinions, strict=True):
        if opinion.p_violates is not None and opinion.p_violates < config.threshold - config.abstain_band:
            kept[i] = tried[i]
    return kept
