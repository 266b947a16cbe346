"""What a judge of triage must keep before the corpus is judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from trace_ray.config import JudgeConfig, TriageConfig, judge_name
from trace_ray.judges.gates import Gate, auc_gate, kappa_gate
from trace_ray.judges.unreadable import unread_tally
from trace_ray.triage.block import NOT_ASKED, SIDES

THIRD = "triage.third_judge"
LEAST = 100
"""Responses below which nothing is said of a share: with fewer its 95 % interval is wider than 20 points."""


def sample_gates(triage: TriageConfig, judged: pa.Table) -> list[Gate]:
    """Returns the gates that need no label, of each judge that reads.

    Args:
        judged: ``block.JUDGED_SCHEMA`` of the pairs that are judged first; refused ones do not count.
    """
    kept = judged.filter(pc.is_null(judged["reason"]))
    judges: dict[str, tuple[JudgeConfig | None, str, str]] = {
        "triage.judge": (triage.judge, "p", "error"),
        "triage.second_judge": (triage.second_judge, "second", "second_error"),
        THIRD: (triage.third_judge, "third", "third_error"),
    }
    found: list[Gate] = []
    for name, (judge, p, error) in judges.items():
        if judge is not None and judge.backend != "rules":
            columns = [(f"{p}_{side}", f"{error}_{side}") for side in SIDES]
            said = [
                verdict for a, b in columns for verdict in zip(kept[a].to_pylist(), kept[b].to_pylist(), strict=True)
            ]
            asked = said if name != THIRD else [verdict for verdict in said if verdict != NOT_ASKED]
            found += _of_judge(triage, name, judge, asked)
    return found


def _of_judge(
    triage: TriageConfig, name: str, judge: JudgeConfig, said: Sequence[tuple[float | None, str | None]]
) -> list[Gate]:
    if len(said) < LEAST:
        return []
    tally = unread_tally(said)
    reasons: Mapping[str, int] = tally["unreadable"]
    failed = sum(number for reason, number in reasons.items() if reason.startswith("endpoint"))
    called = f"judge {judge_name(judge)}"
    looked = f"of {len(said):,} responses judged before the corpus"
    most = max(reasons, key=lambda reason: reasons[reason], default="")
    gates = [
        _share(
            *(name, "triage.max_endpoint_errors", triage.max_endpoint_errors, failed / len(said)),
            f"{called}: its endpoint failed for {failed:,} {looked}",
            "see that it is up and not overloaded, or raise the limit knowingly",
        ),
        _share(
            *(name, "triage.max_unreadable", triage.max_unreadable, sum(reasons.values()) / len(said)),
            f"{called} gave no verdict on {sum(reasons.values()):,} {looked}"
            + (f"; most often: {most}" if most else ""),
            "use a judge that can be read, or raise the limit knowingly",
        ),
    ]
    read = [p for p, _ in said if p is not None]
    bad = sum(p >= triage.threshold for p in read)
    if len(read) >= LEAST and (name != THIRD or triage.third_asked == "all"):  # ties may well all be of one kind
        word, number = ("violating", bad) if 2 * bad >= len(read) else ("compliant", len(read) - bad)
        gates.append(
            _share(
                *(name, "triage.max_one_sided", triage.max_one_sided, number / len(read)),
                f"{called} calls {number:,} {looked} {word}",
                "use a judge that tells them apart or another triage.threshold, or raise the limit knowingly",
            )
        )
    return gates


def _share(judge: str, limit: str, bound: float, seen: float, said: str, remedy: str) -> Gate:
    return Gate(judge, limit, bound, seen, seen <= bound, f"{said} ({100 * seen:.1f} %)", remedy)


def audit_gates(
    triage: TriageConfig, figures: Mapping[str, Any], setting: str = "triage.judge", name: str = ""
) -> list[Gate]:
    """Returns the gates of an audit's figures: AUC, and Cohen's kappa where a limit is set.

    Args:
        setting, name: of the judge that the figures are of, triage.judge's own where they are left out.
    """
    labels, called = f"on {figures['pairs']:,} labelled pairs", f"judge {name or judge_name(triage.judge)}"
    gates = [auc_gate(setting, "triage.min_auc", triage.min_auc, figures["auc"], called, labels)]
    if triage.min_kappa > 0:
        said = f"at triage.threshold={triage.threshold:g} {called} and labels disagree {labels}"
        remedy = "set triage.calibration=platt or another triage.threshold"
        gates.append(kappa_gate(setting, "triage.min_kappa", triage.min_kappa, figures["kappa"], said, remedy))
    return gates
