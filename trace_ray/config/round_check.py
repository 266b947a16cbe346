"""What rounds after a run (``rounds.number``) must fulfil."""

from __future__ import annotations

from collections.abc import Iterator

from trace_ray.config.tree import Config
from trace_ray.errors import UserError


def round_problems(config: Config) -> Iterator[UserError]:
    """Yields what further rounds are at odds with."""
    number, corpus, triage = config.rounds.number, config.corpus, config.triage
    if number < 2:
        return
    if config.objective.weights == "u2a":
        remedy = "u2a has rounds of its own (objective.u2a_rounds): use 1, or another method"
        yield UserError("rounds.number", number, remedy)
    if not (corpus.holdout or corpus.test_paths or config.evaluate.prompt_file):
        remedy = "rounds are compared on prompts that none of them trains on: raise it, name corpus.test_paths, or use "
        yield UserError("corpus.holdout", corpus.holdout, f"{remedy}rounds.number=1")
    if triage.correct and triage.gold_responses:
        remedy = (
            "they belong to the corpus' own responses, and a further round has the model's: leave it empty and name "
        )
        yield UserError("triage.gold_responses", triage.gold_responses, f"{remedy}a triage.corrector, such as sample")
    if triage.combine == "dawid_skene" and (triage.third_judge is None or triage.third_asked != "all"):
        remedy = (
            "no label is of a model's own answers, and without any it takes three votes: give triage.third_asked=all"
        )
        yield UserError("triage.combine", triage.combine, remedy)
