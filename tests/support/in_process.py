"""Triage without a cluster: the same workers and files, every block in this process. Ray itself is tested elsewhere."""

from __future__ import annotations

from typing import Any

import pytest

from trace_ray.config import Config
from trace_ray.corpus.blocks import block_count, regroup
from trace_ray.triage import again, reading, running, stage
from trace_ray.triage.block import merge_counts
from trace_ray.triage.publish import ReadRows
from trace_ray.triage.work import Work


def triage_in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets ``run_triage`` and ``decide_again`` do their work here."""
    for module in (stage, again):
        monkeypatch.setattr(module, "ensure_ray", lambda _config: None)
    monkeypatch.setattr(stage, "read_corpus", read_here)
    blocks_in_process(monkeypatch)


def blocks_in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets blocks be judged and decided here."""
    for name in ("in_pool", "in_tasks"):
        monkeypatch.setattr(running, name, _blocks_here)


def _blocks_here(worker: Any, arguments: Any, blocks: list[int], *_pool: Any) -> list[dict[str, Any]]:
    return running.run_blocks(worker, arguments(), blocks) if blocks else []


def read_here(config: Config, sources: list[Any], work: Work) -> ReadRows:
    groups = reading._groups(sources, config.corpus.limit)
    blocks = block_count(sum(map(reading._count_group, groups)), config.corpus.rows_per_part)
    total = merge_counts([regroup(group, config.corpus, blocks, work.chunks, work.rejects) for group in groups])
    return ReadRows(total["rows"], total["row_sum"], blocks, total["extra"])
