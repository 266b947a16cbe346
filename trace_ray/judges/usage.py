"""What judges use of tokens, prompts and caches, told piece by piece."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from trace_ray.judges.opinion import Corrector, Judge
from trace_ray.runtime import metrics


class Usage:
    """What judges have used since this was last asked.

    Args:
        counted: {prefix of its counts' names: judge or corrector}.
    """

    def __init__(self, counted: Mapping[str, Judge | Corrector]) -> None:
        self.counted = counted
        self.before: Counter[str] = Counter()

    def take(self) -> dict[str, int]:
        """Returns the counts, and adds them to the metrics."""
        now = Counter(
            {f"{prefix}{name}": n for prefix, judge in self.counted.items() for name, n in judge.counts().items()}
        )
        used = {name: value - self.before[name] for name, value in now.items()}
        self.before = now
        metrics.count_judge(used)
        return used
