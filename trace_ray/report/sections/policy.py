"""The policy as it changed: a word diff, and a row a clause with what breaks it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trace_ray.config import Config
from trace_ray.config.policy import PolicyConfig, PreviousConfig, clause_ids
from trace_ray.look.words import Piece, word_diff
from trace_ray.pairs import prompt_text
from trace_ray.report.redact import Excerpt, excerpt
from trace_ray.report.sections.clauses import Broken, broken_by_clause, kept_by_clause
from trace_ray.report.sections.worse import answers_of_both
from trace_ray.report.survey.surveys import Surveys
from trace_ray.runs.artifacts import Run

EXAMPLE_CHARACTERS = 300


@dataclass(frozen=True)
class ClauseRow:
    """One clause.

    Args:
        state: kept, changed, new or dropped; empty where no previous policy is known.
        counts: pairs that break it by (split, category); None where nobody told.
        kept: percent of answers that keep it, before and after; None where it has no rule or no prompt asked for it.
        agreement: (pairs with the label's category, labelled pairs) of those that break it; None without labels.
        examples: (category, prompt, response that breaks it).
    """

    name: str
    state: str
    text: Sequence[Piece]
    ruled: bool
    counts: Mapping[tuple[str, str], int] | None
    kept: tuple[float, ...] | None
    agreement: tuple[int, int] | None
    examples: Sequence[tuple[str, Excerpt | None, Excerpt | None]]

    def pairs(self, split: str = "", category: str = "") -> int:
        """Returns the pairs that break it, of one split or category or of all."""
        counts = self.counts or {}
        return sum(n for (s, c), n in counts.items() if split in ("", s) and category in ("", c))


@dataclass(frozen=True)
class PolicySection:
    """The policy; ``since`` is the previous one's name and version, empty where it is not known."""

    since: str
    text: Sequence[Piece]
    exceptions: Sequence[Piece]
    rows: Sequence[ClauseRow]
    by_rules: bool

    @property
    def changes(self) -> dict[str, int]:
        """Returns how many clauses are kept, changed, new and dropped; those that are none left out."""
        found = {state: sum(row.state == state for row in self.rows) for state in ("changed", "new", "dropped", "kept")}
        return {state: number for state, number in found.items() if number}


def policy_section(run: Run, seen: Surveys, config: Config) -> PolicySection:
    """Returns the policy with whatever is known of its clauses."""
    policy, previous = config.policy, config.policy.previous
    broken = broken_by_clause(seen.clauses, seen.rows) if seen.clauses else None
    both = answers_of_both(run) if run.evaluation.done() else []
    kept = kept_by_clause(both, policy, config.triage.threshold) if both else {}
    changes = clause_changes(policy, previous)
    rows = [_row(name, state, text, config, broken, kept, by_rules=seen.by_rules) for name, state, text in changes]
    old = previous or policy
    return PolicySection(
        since=f"“{previous.name}”, version {previous.version}" if previous else "",
        text=word_diff(old.text, policy.text),
        exceptions=word_diff(" ".join(old.exceptions), " ".join(policy.exceptions)),
        rows=rows,
        by_rules=seen.by_rules,
    )


def clause_changes(policy: PolicyConfig, previous: PreviousConfig | None) -> list[tuple[str, str, list[Piece]]]:
    """Returns (id, state, words) of each clause, the dropped ones last. Clauses are the same where their ids are."""
    new = dict(zip(clause_ids(policy), (clause.text for clause in policy.clauses), strict=True))
    if previous is None:
        return [(name, "", word_diff(text, text)) for name, text in new.items()]
    old = dict(zip(clause_ids(previous), (clause.text for clause in previous.clauses), strict=True))
    found = []
    for name, text in new.items():
        state = "new" if name not in old else "kept" if old[name].split() == text.split() else "changed"
        found.append((name, state, word_diff(old.get(name, ""), text)))
    return found + [(name, "dropped", word_diff(text, "")) for name, text in old.items() if name not in new]


def _row(
    name: str,
    state: str,
    text: list[Piece],
    config: Config,
    broken: Mapping[str, Broken] | None,
    kept: Mapping[str, tuple[float, ...]],
    *,
    by_rules: bool,
) -> ClauseRow:
    ruled = {
        clause_id
        for clause_id, clause in zip(clause_ids(config.policy), config.policy.clauses, strict=True)
        if clause.rule
    }
    told = None if broken is None or state == "dropped" else broken.get(name, Broken())
    told = None if by_rules and name not in ruled else told
    mode = config.report.redact
    examples = [
        (
            row["category"],
            excerpt(prompt_text(row["prompt"]), mode, EXAMPLE_CHARACTERS),
            excerpt(row[row["side"]], mode, EXAMPLE_CHARACTERS),
        )
        for row in (told.examples if told else ())
    ]
    agreement = (told.agreed, told.labelled) if told and told.labelled else None
    return ClauseRow(
        name, state, text, name in ruled, told.counts if told else None, kept.get(name), agreement, examples
    )
