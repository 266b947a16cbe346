"""A policy: the document a judge reads, and, where code can decide it, the rules of its clauses."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from trace_ray.errors import UserError


@dataclass(frozen=True, kw_only=True)
class RuleConfig:
    """When a clause is broken, decided by code. All given conditions of one rule must hold together.

    Args:
        when_prompt: regular expression (RE2); the rule looks only at prompts it matches; empty = every prompt.
        unless_prompt: the rule passes over prompts that this matches; empty = none.
        max_words: broken by a response of more whitespace-separated words; 0 = no limit.
        min_words: broken by a response of fewer; 0 = no limit.
        forbid_starts: broken by a response that begins, blanks and case aside, with one of these.
        forbid: broken by a response that matches this regular expression; empty = nothing forbidden.
        require: broken by a response that does not match this regular expression; empty = nothing required.
    """

    when_prompt: str = ""
    unless_prompt: str = ""
    max_words: int = 0
    min_words: int = 0
    forbid_starts: tuple[str, ...] = ()
    forbid: str = ""
    require: str = ""


@dataclass(frozen=True, kw_only=True)
class ClauseConfig:
    """One sentence of a policy. Without a rule only a judge that reads can decide it.

    Args:
        severity: how grave a breach is, in the policy's own words, such as ``zero tolerance``; the judge reads it.
    """

    id: str = ""
    text: str = ""
    severity: str = ""
    rule: RuleConfig | None = None


@dataclass(frozen=True, kw_only=True)
class PreviousConfig:
    """The policy that the pairs were labelled under; shown beside the new one, judged by nobody."""

    name: str = ""
    version: str = ""
    text: str = ""
    clauses: list[ClauseConfig] = field(default_factory=list)
    exceptions: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """A policy's name, version and text; ``text`` comes first, the clauses follow as a list, then the exceptions.

    Args:
        exceptions: what is allowed although a clause speaks against it; each names the clauses it yields to, if any.
        previous: the policy before this one, for the report to tell what changed; it changes no verdict. null = not told.
    """

    name: str = ""
    version: str = "1"
    text: str = ""
    clauses: list[ClauseConfig] = field(default_factory=list)
    exceptions: list[str] = field(default_factory=list)
    previous: PreviousConfig | None = field(default=None, metadata={"resource": True})


def policy_text(policy: PolicyConfig, *, with_ids: bool = False) -> str:
    """Returns what a judge reads: the text, one line a clause, the exceptions. Byte-identical for equal policies.

    Args:
        with_ids: begin each clause with its id, for those who are to name one.
    """
    lines = [policy.text.strip()] if policy.text.strip() else []
    severities = [f" ({clause.severity.strip()})" if clause.severity.strip() else "" for clause in policy.clauses]
    names = [f"[{name}] " if with_ids else "" for name in clause_ids(policy)]
    lines += [f"- {n}{c.text.strip()}{s}" for n, c, s in zip(names, policy.clauses, severities, strict=True)]
    if policy.exceptions:
        lines += ["Exceptions:", *(f"- {exception.strip()}" for exception in policy.exceptions)]
    return "\n".join(lines)


def policy_hash(policy: PolicyConfig) -> str:
    """Returns 16 hex digits over every field but ``previous``, so that a changed rule or version is a changed policy."""
    fields = {name: value for name, value in asdict(policy).items() if name != "previous"}
    canonical = json.dumps(fields, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def policy_identity(policy: PolicyConfig) -> str:
    """Returns name and hash: what a stage that goes by the policy keeps among its inputs."""
    return f"{policy.name} {policy_hash(policy)}"


def check_policy(policy: PolicyConfig, *, needs_rules: bool) -> None:
    """Raises UserError where the policy is empty, has a broken pattern, or lacks the rules its judge needs."""
    if not policy_text(policy):
        raise UserError(
            "policy", "empty", "give policy.text or policy.clauses, for example with -c conf/policies/brevity.yaml"
        )
    rules = [(clause.id or str(i), clause.rule) for i, clause in enumerate(policy.clauses) if clause.rule is not None]
    if needs_rules and not rules:
        raise UserError(
            "triage.judge.backend",
            "rules",
            f"policy {policy.name!r} has no clause with a rule; use backend vllm or add rules",
        )
    names = [clause.id for clause in policy.clauses if clause.id]
    for name in names:
        if names.count(name) > 1:
            raise UserError("policy.clauses", name, "each clause needs an id of its own")
    for clause_id, rule in rules:
        for key in ("when_prompt", "unless_prompt", "forbid", "require"):
            try:
                pc.match_substring_regex(pa.array([""]), getattr(rule, key))
            except pa.ArrowInvalid as error:
                where = f"policy.clauses[{clause_id}].rule.{key}"
                raise UserError(where, getattr(rule, key), f"not a regular expression (RE2): {error}") from None


def clause_ids(policy: PolicyConfig | PreviousConfig) -> list[str]:
    """Returns each clause's id, its number from 1 where it has none."""
    return [clause.id or str(number) for number, clause in enumerate(policy.clauses, 1)]


def unruled(policy: PolicyConfig) -> list[str]:
    """Returns the ids of the clauses that code cannot decide."""
    named = zip(clause_ids(policy), policy.clauses, strict=True)
    return [name for name, clause in named if clause.rule is None]
