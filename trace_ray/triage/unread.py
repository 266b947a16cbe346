"""A corpus that gives nothing is told, with what was seen and what would help, instead of judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trace_ray.config import CorpusConfig
from trace_ray.corpus.check import SAMPLED_ROWS, check_corpus, refusal
from trace_ray.corpus.refused import many_refused, refused_share
from trace_ray.corpus.units import SourceGroup
from trace_ray.errors import UserError
from trace_ray.pairs import RejectReason, Split
from trace_ray.runtime.progress import warn


def refuse_unread(
    groups: Sequence[SourceGroup], tallies: Mapping[str, Mapping[str, Any]], config: CorpusConfig
) -> None:
    """Raises UserError where no pair could be read for training, or none of the files named as held out.

    Args:
        tallies: of ``corpus.runs.read_group``, by the groups' names.
    """
    named = {"corpus.paths": config.paths, "corpus.test_paths": config.test_paths}
    for setting, held_out in (("corpus.paths", False), ("corpus.test_paths", True)):
        mine = [group for group in groups if any(source.split == Split.TEST for source in group.sources) == held_out]
        rows = {group.name: int(tallies[group.name]["rows"]) for group in mine}
        made = sum(int(tallies[name]["rows"] + tallies[name]["extra"]) for name in rows)
        if mine and made == sum(int(tallies[name]["rejects"]) for name in rows):
            fullest = max(mine, key=lambda group: rows[group.name])
            checked = check_corpus(fullest.sources[:1], config, SAMPLED_ROWS).files[0]
            raise UserError(setting, list(named[setting]), refusal(checked, sum(rows.values())))


def tell_refused(rejects: Mapping[str, int], rows: int) -> None:
    """Warns on the terminal of many refused rows, and of any training pair whose prompt is held out."""
    if many_refused(rejects, rows):
        warn(f"triage: {refused_share(rejects, rows)}; `trace-ray check FILES` shows examples")
    elif leaks := rejects.get(RejectReason.HELD_OUT_PROMPT, 0):
        warn(f"triage: {leaks:,} training pairs are refused, since their prompts are held out")
