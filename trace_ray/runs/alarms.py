"""What of a training's figures says that it is sick, though each of them is finite and the loss falls.

Displaced: what is preferred has sunk below the reference, so that the margin grows by the other side alone (Razin et al.,
arXiv 2410.08847). Collapsed: what is suppressed has sunk so far that its loss has no gradient left, or the anchors' answers
have lost the reference. A gradient that has vanished there is no convergence.

Clipped is a note, not a sickness: real models train well at norms of 4 to 10 under a limit of 1, but their steps are then as
long as the limit lets them be, and the learning rate alone decides what a step does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from statistics import median
from typing import Any, NamedTuple

from trace_ray.config import ObjectiveConfig, RealignConfig
from trace_ray.pairs import TRAINED

Row = Mapping[str, Any]

STEPS = 10
"""With pairs of a category, on the mean of whose figures its alarms go by."""
COLLAPSED = -50.0
"""Nats of a suppressed one where nothing is preferred to it: at beta 0.3 npo's gradient is 3e-7 of its first."""
CLIPPED_STEPS = 20
"""After the warm-up, or as many as the run has of them, at least STEPS: each of them clipped is worth a note."""
ADRIFT = 1.0
"""Nats a token of the anchors' KL to the reference: twice what a report calls a damaged model by default."""
_WINDOW = 40 * STEPS
"""Steps that are looked through for them."""
ALARMS, UNWEIGHED = "alarms", "unweighed"
"""In a step's figures: {alarm: text} of those raised there for the first time; in the first step's: categories of which no
pair weighs."""
CLIPPED = "clipped"
"""The alarm that is a note."""


class Alarm(NamedTuple):
    """One that was raised, at the step where it was first seen."""

    step: int
    name: str
    text: str

    @property
    def note(self) -> bool:
        """Whether it is a plain statement, and nothing in doubt."""
        return self.name == CLIPPED


def alarms(rows: Sequence[Row], objective: ObjectiveConfig, realign: RealignConfig) -> dict[str, str]:
    """Returns {alarm: what is seen and what to do} of a training as it stands.

    Args:
        rows: the figures of each step so far.
        objective: whose terms they are of; realign: limits of gradients and displacement.
    """
    found: dict[str, str] = {}
    for name in rows[0].get(UNWEIGHED, ()) if rows else ():
        found[f"{name} unweighed"] = (
            f"{name}: no pair has a weight above 0, so none is trained on; look at impact's weights, or use "
            "objective.weights=uniform"
        )
    found |= _unsound(rows, objective, realign)
    if said := _clipped(rows, realign):
        found[CLIPPED] = said
    return found


def unweighed(scored: Mapping[str, Any], trained: Mapping[str, int], objective: ObjectiveConfig) -> list[str]:
    """Returns the categories that the method trains, that have scored pairs and none to train on.

    Args:
        scored, trained: pairs by category, before and after those of weight 0 are left out.
    """
    return [name.value for name in TRAINED if objective.terms(name) and scored.get(name) and not trained.get(name)]


def sick(rows: Sequence[Row], objective: ObjectiveConfig, realign: RealignConfig) -> bool:
    """Returns whether a training's state is displaced or collapsed, so that its end is none to stop at."""
    return bool(_unsound(rows, objective, realign))


def raised(rows: Sequence[Row]) -> list[Alarm]:
    """Returns every alarm that a training's figures hold, in the order of the steps."""
    return [Alarm(row["step"], *told) for row in rows for told in row.get(ALARMS, {}).items()]


def _unsound(rows: Sequence[Row], objective: ObjectiveConfig, realign: RealignConfig) -> dict[str, str]:
    """Those of ``alarms`` that say that the model is displaced or collapsed."""
    found: dict[str, str] = {}
    for category in TRAINED:
        found |= dict(_of_category(rows, category.value, objective, realign.max_displacement))
    return found


def _clipped(rows: Sequence[Row], realign: RealignConfig) -> str:
    """What is to be said of gradients that were all scaled down; empty where some were not, or nothing scales them.

    Warm-up is left out: its steps are short on purpose.
    """
    limit = realign.max_grad_norm
    if not limit or not rows:
        return ""
    steps, warm_up = rows[-1]["steps"], realign.warm_up(rows[-1]["steps"])
    asked = max(STEPS, min(CLIPPED_STEPS, steps - warm_up))
    norms = [row["grad_norm"] for row in rows[-asked:] if row["step"] > warm_up]
    if len(norms) < asked or min(norms) <= limit:
        return ""
    return (
        f"each of the last {asked} steps was clipped, to realign.max_grad_norm={limit:g} from gradients of norm "
        f"{min(norms):.3g} to {max(norms):.3g} (median {median(norms):.3g}): steps have the limit's length, and the learning "
        f"rate alone decides their size; where the loss falls leave it, else tune realign.learning_rate or raise the limit "
        f"above {median(norms):.2g}"
    )


def _of_category(
    rows: Sequence[Row], category: str, objective: ObjectiveConfig, max_displacement: float
) -> Iterator[tuple[str, str]]:
    term = objective.watched(category)
    if term is not None:
        beta = objective.beta_of(term)
        sides = {side: _mean(rows, f"{category}/reward_{side}") for side in ("raised", "lowered")}
        nats = {side: None if reward is None else reward / beta for side, reward in sides.items()}
        if term.prefer and max_displacement and nats["raised"] is not None and nats["raised"] < -max_displacement:
            yield (
                f"{category} displaced",
                (
                    f"{category}: the preferred response has sunk {-nats['raised']:.3g} nats below the reference: displaced; "
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
        term = objective.watched(category)
        for side in ("raised", "lowered") if term is not None and row.get(f"{category}/pairs") else ():
            assert term is not None
            nats = row[f"{category}/reward_{side}"] / objective.beta_of(term)
            if not abs(nats) <= limit:
                return (
                    f"{category}: the mean log-ratio to the reference is {nats:.3g} nats at the first step, not 0 "
                    f"(loss {row[f'{category}/loss']:.4g})"
                )
    return ""
