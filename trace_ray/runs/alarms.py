"""What of a training's figures says that it is sick, though each of them is finite and the loss falls.

Displaced: what is preferred has sunk below the reference, so that the margin grows by the other side alone (Razin et al.,
arXiv 2410.08847). Collapsed: what is suppressed has sunk so far that its loss has no gradient left, or the anchors' answers
have lost the reference. A gradient that has vanished there is no convergence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from trace_ray.config import ObjectiveConfig, TermConfig
from trace_ray.pairs import TRAINED

Row = Mapping[str, Any]

STEPS = 10
"""With pairs of a category, on the mean of whose figures its alarms go by."""
DISPLACED = -10.0
"""Nats of a preferred response below the reference: it is 22,000 times less likely than it was."""
COLLAPSED = -50.0
"""Nats of a suppressed one where nothing is preferred to it: at beta 0.3 npo's gradient is 3e-7 of its first."""
ADRIFT = 1.0
"""Nats a token of the anchors' KL to the reference: twice what a report calls a damaged model by default."""
_WINDOW = 40 * STEPS
"""Steps that are looked through for them."""
ALARMS, UNWEIGHED = "alarms", "unweighed"
"""In a step's figures: {alarm: text} of those raised there for the first time; in the first step's: categories of which no
pair weighs."""


def alarms(rows: Sequence[Row], objective: ObjectiveConfig) -> dict[str, str]:
    """Returns {alarm: what is seen and what to do} of a training as it stands.

    Args:
        rows: the figures of each step so far.
        objective: whose terms they are of.
    """
    found: dict[str, str] = {}
    for name in rows[0].get(UNWEIGHED, ()) if rows else ():
        found[f"{name} unweighed"] = (
            f"{name}: no pair has a weight above 0, so none is trained on; look at impact's weights, or use "
            "objective.weights=uniform"
        )
    for category in TRAINED:
        found |= dict(_of_category(rows, category.value, objective))
    return found


def unweighed(scored: Mapping[str, Any], trained: Mapping[str, int], objective: ObjectiveConfig) -> list[str]:
    """Returns the categories that the method trains, that have scored pairs and none to train on.

    Args:
        scored, trained: pairs by category, before and after those of weight 0 are left out.
    """
    return [name.value for name in TRAINED if objective.terms(name) and scored.get(name) and not trained.get(name)]


def sick(rows: Sequence[Row], objective: ObjectiveConfig) -> bool:
    """Returns whether a training's state is displaced or collapsed, so that its end is none to stop at."""
    return any(not name.endswith(UNWEIGHED) for name in alarms(rows, objective))


def raised(rows: Sequence[Row]) -> list[tuple[int, str]]:
    """Returns (step, text) of every alarm that a training's figures hold."""
    return [(row["step"], text) for row in rows for text in row.get(ALARMS, {}).values()]


def _of_category(rows: Sequence[Row], category: str, objective: ObjectiveConfig) -> Iterator[tuple[str, str]]:
    term = relative_term(category, objective)
    if term is not None:
        beta = term_beta(term, objective)
        sides = {side: _mean(rows, f"{category}/reward_{side}") for side in ("raised", "lowered")}
        nats = {side: None if reward is None else reward / beta for side, reward in sides.items()}
        if term.prefer and nats["raised"] is not None and nats["raised"] < DISPLACED:
            yield (
                f"{category} displaced",
                (
                    f"{category}: the preferred response has sunk {-nats['raised']:.0f} nats below the reference: displaced; "
                    "add an sft term or use dpop (see method trace_hold), lower realign.learning_rate, or train fewer steps"
                ),
            )
        if not term.prefer and nats["lowered"] is not None and nats["lowered"] < COLLAPSED:
            yield (
                f"{category} collapsed",
                (
                    f"{category}: what is suppressed has sunk {-nats['lowered']:.0f} nats below the reference: collapsed; "
                    "use npo_saturating or undial (see method trace_hold_npo), a lower rate, or fewer steps"
                ),
            )
    terms = objective.terms(category)
    drift = _mean(rows, f"{category}/loss") if terms and all(term.entry.anchor for term in terms) else None
    if drift is not None and drift > ADRIFT:
        yield (
            f"{category} adrift",
            (
                f"{category}: the answers to keep are {drift:.1f} nats a token from the reference: collapsed; give "
                f"{objective.firmer}, lower realign.learning_rate, or train fewer steps"
            ),
        )


def relative_term(category: str, objective: ObjectiveConfig) -> TermConfig | None:
    """Returns the term of a category that its implicit rewards are of: the first that reads log-ratios; None without one."""
    return next((term for term in objective.terms(category) if term.entry.needs_reference_log_probs), None)


def term_beta(term: TermConfig, objective: ObjectiveConfig) -> float:
    """Returns what a term's log-ratios are multiplied by in implicit rewards."""
    return float(objective.parameters(term).get("beta", objective.beta))


def _mean(rows: Sequence[Row], key: str) -> float | None:
    """The mean over the last STEPS rows that have it; None where there are fewer."""
    values = list(islice((row[key] for row in reversed(rows[-_WINDOW:]) if key in row), STEPS))
    return sum(values) / STEPS if len(values) == STEPS else None


NOISE = {"float32": 0.01, "bfloat16": 0.1, "float16": 0.02}
"""Nats by which a token's log-prob may differ from one order of the same sums to another."""


def wrong_reference(row: Row, objective: ObjectiveConfig, dtype: str) -> str:
    """Returns why the stored reference is not the model that training starts from, in words; empty where it is.

    At the first step model and reference are one: every log-ratio is 0, and so dpo's loss ln 2. Noise of single tokens adds
    up as the root of their number.

    Args:
        row: the first step's figures.
        dtype: of the model's weights.
    """
    sequences = sum(2 * row.get(f"{name}/pairs", 0) for name in TRAINED)
    limit = 4 * NOISE.get(dtype, 0.1) * (row["tokens"] / max(1, sequences)) ** 0.5
    for category in TRAINED:
        term = relative_term(category, objective)
        for side in ("raised", "lowered") if term is not None and row.get(f"{category}/pairs") else ():
            assert term is not None
            nats = row[f"{category}/reward_{side}"] / term_beta(term, objective)
            if not abs(nats) <= limit:
                return (
                    f"{category}: the mean log-ratio to the reference is {nats:.3g} nats at the first step, not 0 "
                    f"(loss {row[f'{category}/loss']:.4g})"
                )
    return ""
