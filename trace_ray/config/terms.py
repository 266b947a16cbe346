"""How a category's terms may be written, and what they must fulfil: both read the table of losses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from trace_ray.config.objective import ObjectiveConfig, TermConfig
from trace_ray.errors import UserError, nearest
from trace_ray.objective.losses import WEIGHT, Loss, Parameter, find_loss
from trace_ray.pairs import RESPONSE_NAMES, TRAINED

_KEYS = tuple(item.name for item in fields(TermConfig))
_PREFERRED = {"INVERT": "rejected", "PUNISH": "corrected", "RETAIN": "chosen"}
_SUPPRESSED = {"INVERT": ("chosen",), "PUNISH": ("chosen", "rejected"), "RETAIN": ("rejected",)}
"""What a term of a list takes where it does not say."""


def written_out(layers: Sequence[tuple[str, dict[str, Any]]]) -> list[tuple[str, dict[str, Any]]]:
    """Returns the layers with every category's terms as ``TermConfig`` has them.

    A list becomes its first term with the others under ``also``; what is no field of a term is a parameter of its loss. A
    layer that names a loss takes no parameters and no further terms from those before it.

    >>> written_out([("a.yaml", {"objective": {"INVERT": [{"loss": "dpo", "beta": 0.1}, {"loss": "sft"}]}})])[0][1]["objective"]
    ... # doctest: +NORMALIZE_WHITESPACE
    {'INVERT': {'loss': 'dpo', 'prefer': 'rejected', 'suppress': ['chosen'], 'parameters': {'beta': 0.1},
                'also': [{'loss': 'sft', 'prefer': 'rejected', 'suppress': [], 'parameters': {}}]}}
    """
    done: list[tuple[str, dict[str, Any]]] = []
    for where, given in layers:
        values, objective = given, given.get("objective")
        if isinstance(objective, dict):
            terms = {name: _term(name, objective[name]) for name in TRAINED if name in objective}
            for name in (name for name, term in terms.items() if isinstance(term, dict) and "loss" in term):
                done = [(place, _forgotten(before, name)) for place, before in done]
            values = {**given, "objective": {**objective, **terms}}
        done.append((where, values))
    return done


def _term(category: str, written: Any) -> Any:
    if isinstance(written, list) and written and all(isinstance(term, dict) for term in written):
        first, *others = ({**_roles(category, term), **_sorted_out(term)} for term in written)
        return {**first, "also": [*first.get("also", []), *others]}
    return _sorted_out(written) if isinstance(written, dict) else written


def _sorted_out(written: Mapping[str, Any]) -> dict[str, Any]:
    """A term with what is no field of it among its parameters."""
    own = {name: value for name, value in written.items() if name not in _KEYS}
    term = {name: value for name, value in written.items() if name in _KEYS}
    return term | {"parameters": {**(term.get("parameters") or {}), **own}} if own else term


def _roles(category: str, written: Mapping[str, Any]) -> dict[str, Any]:
    """What a term of a list is where it does not say."""
    try:
        entry = find_loss(str(written.get("loss", "")))
    except UserError:
        return {}  # which the check says
    suppressed = _SUPPRESSED[category][: 1 if entry.prefers else max(entry.suppresses)]
    return {
        "loss": entry.name,
        "prefer": _PREFERRED[category] if entry.prefers else "",
        "suppress": [] if 0 in entry.suppresses else list(suppressed),
        "parameters": {},
    }


def _forgotten(values: dict[str, Any], category: str) -> dict[str, Any]:
    objective = values.get("objective")
    if not isinstance(objective, dict) or not isinstance(objective.get(category), dict):
        return values
    kept = {name: value for name, value in objective[category].items() if name not in ("parameters", "also")}
    return {**values, "objective": {**objective, category: kept}}


def named_terms(objective: ObjectiveConfig) -> Iterator[tuple[str, TermConfig]]:
    """Yields (setting's name, term) of every term."""
    for category in TRAINED:
        first: TermConfig = getattr(objective, category)
        yield f"objective.{category}", first
        yield from ((f"objective.{category}.also[{number}]", term) for number, term in enumerate(first.also))


def unknown_losses(objective: ObjectiveConfig) -> Iterator[UserError]:
    """Yields every loss that no table has."""
    for where, term in named_terms(objective):
        try:
            find_loss(term.loss)
        except UserError as error:
            yield UserError(f"{where}.loss", error.seen, error.remedy)


def term_problems(objective: ObjectiveConfig, *, corrected: bool) -> Iterator[UserError]:
    """Yields what a term takes that its loss does not, or lacks; ``corrected``: whether triage corrects responses."""
    for where, term in named_terms(objective):
        for name in term.suppress:
            if name not in RESPONSE_NAMES:
                remedy = f"name responses among {', '.join(RESPONSE_NAMES)}{nearest(name, RESPONSE_NAMES)}"
                yield UserError(f"{where}.suppress", name, remedy)
        for further in term.also if ".also[" in where else ():
            yield UserError(f"{where}.also", further.loss, "put it into the category's own list")
        if objective.weights == "u2a" and term.entry.token_slope:
            yield UserError(
                f"{where}.loss", term.loss, "u2a's rounds know its gradient at the reference alone: use npo"
            )
        if term.entry.value:
            yield from _response_problems(where, term, term.entry, corrected=corrected)
            yield from _parameter_problems(where, term, term.entry)


def target_problems(
    objective: ObjectiveConfig, shares: Mapping[str, float], retain_per_conflict: float
) -> Iterator[UserError]:
    """Yields why ``objective.kl_target`` has no KL to go by.

    Args:
        shares, retain_per_conflict: of ``realign`` and ``impact``, by which RETAIN pairs are drawn.
    """
    target, terms = objective.kl_target, objective.terms("RETAIN")
    if not target:
        return
    if objective.retain != "anchor" or len(terms) != 1 or not terms[0].entry.anchor:
        remedy = (
            "it is the mean of RETAIN's only term, a kl, which objective.retain=anchor keeps apart: give that, or 0"
        )
        yield UserError("objective.kl_target", target, remedy)
    elif objective.parameters(terms[0])["weight"] != 1:
        yield UserError("objective.kl_target", target, "RETAIN's kl has a weight: leave that to alpha_kl")
    if not objective.alpha_kl:
        yield UserError("objective.alpha_kl", 0, "objective.kl_target changes it by factors: give what it begins with")
    if objective.weights == "u2a":
        yield UserError("objective.kl_target", target, "each of u2a's rounds would begin with alpha_kl anew: give 0")
    remedy = "no RETAIN pair would be drawn, by whose KL objective.kl_target goes: give them some, or no target"
    if not retain_per_conflict:
        yield UserError("impact.retain_per_conflict", retain_per_conflict, remedy)
    if shares and not shares.get("RETAIN"):
        yield UserError("realign.shares", dict(shares), remedy)


def _response_problems(where: str, term: TermConfig, entry: Loss, *, corrected: bool) -> Iterator[UserError]:
    if entry.prefers != bool(term.prefer):
        remedy = f"{entry.name} {'needs' if entry.prefers else 'takes no'} preferred response"
        yield UserError(f"{where}.prefer", term.prefer or "empty", remedy)
    if len(term.suppress) not in entry.suppresses:
        wanted = " or ".join(str(n) for n in entry.suppresses)
        remedy = f"{entry.name} takes {wanted} suppressed responses"
        yield UserError(f"{where}.suppress", list(term.suppress), remedy)
    if "corrected" in term.responses and not corrected:
        yield UserError(where, "corrected", "no response is corrected unless triage.correct=true")


def _parameter_problems(where: str, term: TermConfig, entry: Loss) -> Iterator[UserError]:
    known = {p.name: p for p in (WEIGHT, *entry.parameters)}
    for name, value in term.parameters.items():
        if name not in known:
            remedy = f"unknown setting{nearest(name, (*known, *_KEYS))}; {entry.name} has {', '.join(known)}"
            yield UserError(f"{where}.{name}", value, remedy)
        elif not _allowed(known[name], value):
            yield UserError(f"{where}.{name}", value, known[name].remedy)
    for p in entry.parameters:
        if p.default is None and not hasattr(ObjectiveConfig, p.name):
            yield UserError(where, entry.name, f"its parameter {p.name} has no default: mend the package it comes from")


def _allowed(parameter: Parameter, value: Any) -> bool:
    return (
        isinstance(value, bool) == parameter.switch and isinstance(value, (bool, int, float)) and parameter.holds(value)
    )
