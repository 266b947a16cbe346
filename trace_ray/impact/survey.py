"""What stage 2 must know of all triaged pairs before it scores any: rows a part, counts, the gold batch's candidates.

Made part by part, by tasks; surveys add up, in any order and by any grouping, to the same.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa

from trace_ray.config import Config
from trace_ray.corpus.noise import NOISE, noise_counts, noise_record, noisy_table
from trace_ray.impact.gold import PAIR_COLUMNS, Candidates, Row, first, gold_candidates, retain_candidates
from trace_ray.runs.artifacts import Run
from trace_ray.storage import traffic

SURVEY = "survey.json"
"""In impact/: rows a part and counts of a survey that is finished, its samples stored beside it."""
_KEPT = ("rows", "seen", "noise", "traffic")


@dataclass(frozen=True)
class Survey:
    """Of some parts of triaged/.

    Args:
        rows: by part; seen: by ``SPLIT CATEGORY``, noise and all; noise: rows damaged, by kind.
        gold: candidates; None where none were asked for.
        retain: the pairs that come first for the curvature's sample, with their draws.
        traffic: requests that it made of object stores, and their bytes.
    """

    rows: Mapping[str, int] = field(default_factory=dict)
    seen: Mapping[str, int] = field(default_factory=dict)
    noise: Mapping[str, int] = field(default_factory=dict)
    gold: Candidates | None = None
    retain: Sequence[tuple[float, Row]] = ()
    retain_size: int = 0
    traffic: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: Survey) -> Survey:
        size = max(self.retain_size, other.retain_size)
        return Survey(
            {**self.rows, **other.rows},
            dict(Counter(self.seen) + Counter(other.seen)),
            dict(Counter(self.noise) + Counter(other.noise)),
            self.gold + other.gold if self.gold and other.gold else self.gold or other.gold,
            first([*self.retain, *other.retain], size),
            size,
            dict(Counter(self.traffic) + Counter(other.traffic)),
        )

    def dump(self) -> str:
        """Returns all but the samples, as JSON."""
        return json.dumps({name: dict(sorted(getattr(self, name).items())) for name in _KEPT})

    @classmethod
    def load(cls, text: str) -> Survey:
        return cls(**json.loads(text))


def survey(run: Run, config: Config, names: Sequence[str], *, gold: bool, retain: bool) -> Survey:
    """Returns the survey of some parts of triaged/; writes which of their rows the label noise damages.

    Args:
        gold, retain: whether candidates for the gold batch and for the curvature's sample are wanted.
    """
    total = Survey()
    for name in names:
        total += _of_part(run, config, name, gold=gold, retain=retain)
    return replace(total, traffic=traffic.take())


def _of_part(run: Run, config: Config, name: str, *, gold: bool, retain: bool) -> Survey:
    impact, noise = config.impact, config.corpus.noise
    damaging = bool(noise.flip or noise.swap)
    columns = PAIR_COLUMNS if gold or retain else ["pair_id", "category", "split"]
    judged = (run.triaged.place / name).read_parquet(columns)
    table, damaged = judged, {}
    if damaging:
        record = noise_record(judged, noise)
        (run.impact.place / NOISE / name).write_parquet(record)
        table, damaged = noisy_table(judged, noise), noise_counts(record)
    corrected = config.objective.corrects
    return Survey(
        {name: table.num_rows},
        _seen(table),
        damaged,
        gold_candidates(table, impact.gold_size, impact.seed, corrected=corrected) if gold else None,
        retain_candidates(table, impact.curvature_pairs, impact.seed) if retain else (),
        impact.curvature_pairs,
    )


def _seen(table: pa.Table) -> dict[str, int]:
    counted = table.group_by(["split", "category"]).aggregate([([], "count_all")]).to_pylist()
    return {f"{row['split']} {row['category']}": row["count_all"] for row in counted}
