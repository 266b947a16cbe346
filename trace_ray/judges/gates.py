"""What a judge must keep: each limit one line, with the figure and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from trace_ray.errors import JudgeRejectedError


@dataclass(frozen=True)
class Gate:
    """One limit and what was seen.

    Args:
        judge: the setting of the judge that it is about, such as ``triage.second_judge``.
        limit: the setting that bounds it; bound: its value; seen: the figure, None where it could not be told.
        said: the figure in words; remedy: what to do where it is not kept.
    """

    judge: str
    limit: str
    bound: float
    seen: float | None
    passed: bool
    said: str
    remedy: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def auc_gate(judge: str, limit: str, bound: float, auc: float | None, called: str, labels: str) -> Gate:
    """Returns the gate of the area under the ROC curve; labels of one class pass no judge.

    Args:
        called: the judge as it is named in a sentence; labels: what it was compared with, such as ``on 60 labelled pairs``.
    """
    verdict = "no better than chance" if auc is not None and auc < 0.6 else "too weak"
    seen = "no AUC (readable verdicts of one class only)" if auc is None else f"AUC {auc:.3f}"
    return Gate(
        *(judge, limit, bound, auc, auc is not None and auc >= bound),
        f"{seen}: {called} is {verdict} {labels}",
        f"use a stronger {judge}.model or a rules policy, or lower {limit} knowingly",
    )


def kappa_gate(judge: str, limit: str, bound: float, kappa: float | None, said: str, remedy: str) -> Gate:
    """Returns the gate of Cohen's kappa.

    Args:
        said: who disagrees with what; remedy: what to do but to lower the limit.
    """
    shown = "no kappa (labels of one class only)" if kappa is None else f"kappa {kappa:.3f}"
    passed = kappa is not None and kappa >= bound
    return Gate(judge, limit, bound, kappa, passed, f"{shown}: {said}", f"{remedy}, or lower {limit} knowingly")


def refuse_gates(gates: Sequence[Gate]) -> None:
    """Raises JudgeRejectedError for the first limit that is not kept."""
    for gate in gates:
        if not gate.passed:
            raise JudgeRejectedError(gate.judge, gate.said, f"limit {gate.limit}={gate.bound:g}; {gate.remedy}")
