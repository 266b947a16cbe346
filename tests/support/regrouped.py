"""The corpus read and regrouped in this process, every file a unit, without what plans it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trace_ray.config import CorpusConfig
from trace_ray.corpus.blocks import BlockFiles, write_piece
from trace_ray.corpus.read import Source
from trace_ray.corpus.runs import read_group
from trace_ray.corpus.units import SourceGroup, Unit
from trace_ray.storage.location import Location


def regrouped(
    sources: Sequence[Source],
    config: CorpusConfig,
    blocks: int,
    out: Location,
    rejects: Location,
    pieces: int = 1,
    run_bytes: int = 1 << 28,
) -> tuple[dict[str, Any], BlockFiles]:
    """Returns the record of what was read, and the blocks, below ``out``."""
    group = SourceGroup.of(0, [Unit(source.index) for source in sources], {source.index: source for source in sources})
    tally = read_group(group, config, pieces, run_bytes, out / "runs", rejects)
    made = [write_piece(p, pieces, blocks, tally["runs"], out / "runs", out / "pieces") for p in range(pieces)]
    return tally, BlockFiles(out / "pieces", pieces, [bound for record in made for bound in record["bounds"]])
