"""How heavy the anchors weigh, step by step: dual ascent on alpha_kl towards a target KL.

Training minimises the conflicts' loss under mean KL <= target. Its Lagrangian is L + alpha (KL - target), and alpha >= 0 climbs
it by the exponentiated gradient: up while the KL is above the target, down while it is below. So alpha ends where the KL is the
target, or at its lower end where the constraint does not bind.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

ALPHA, KL, PAIRS = "alpha_kl", "RETAIN/loss", "RETAIN/pairs"
"""In a step's figures: the weight that the step took, the mean KL of the anchors it held, in nats a token, and their number."""
SPAN = 100.0
"""Alpha stays within a factor of this of ``objective.alpha_kl``."""
STEPS = 10
"""The KL is the mean over the anchors of so many steps that held some: one step's few pairs say little."""
FACTOR = 3.0
"""A KL further than this factor from the target, above or below, moves alpha as one that is just so far."""


def next_alpha(rows: Sequence[Mapping[str, Any]], alpha: float, target: float, step: float) -> float:
    """Returns alpha of the next step; a function of the figures so far, so that a resumed training goes on exactly.

    alpha <- clip(alpha exp(step (clip(KL / target, 1 / FACTOR, FACTOR) - 1)), alpha_0 / SPAN, alpha_0 SPAN). A step without
    anchors leaves it as it is. A KL is never below 0 and scatters upwards: what is cut off above alone, or of single steps,
    would leave the mean above the target.

    Args:
        rows: the figures of each step so far; alpha: of the first step; target: nats a token, 0 = alpha never changes.
    Source: the dual step of constrained unlearning (arXiv 2506.05314), here in log alpha, with the KL relative to its target.

    >>> next_alpha([{"alpha_kl": 0.1, "RETAIN/loss": 0.3, "RETAIN/pairs": 2}], 0.1, 0.2, 0.5) == 0.1 * math.exp(0.5 * 0.5)
    True
    """
    if not (target and rows):
        return alpha
    last = rows[-1]
    if KL not in last:
        return float(last[ALPHA])
    found = list(islice((row for row in reversed(rows) if KL in row), STEPS))
    mean = math.fsum(row[KL] * row[PAIRS] for row in found) / math.fsum(row[PAIRS] for row in found)
    excess = min(FACTOR, max(1 / FACTOR, mean / target)) - 1
    return min(alpha * SPAN, max(alpha / SPAN, float(last[ALPHA]) * math.exp(step * excess)))
