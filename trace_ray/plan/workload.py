"""How much there is to do: rows, prompts and tokens of each stage, from a sample and the row count. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from trace_ray.config import Config, ObjectiveConfig, PlanConfig, SelectConfig
from trace_ray.pairs import CONFLICTS, TRAINED
from trace_ray.plan.judges import EVALUATION, PANEL


@dataclass(frozen=True, kw_only=True)
class SampledPair:
    """One pair of the sample in figures.

    Args:
        stands_for: pairs of the corpus that it represents.
        category: what rules say of it; None where only a judge that reads can tell.
        test: whether it is held out; repeated: whether its prompt came before in its split.
        prompt: tokens of the prompt as training renders it.
        responses: tokens of chosen, rejected and, where there is one, corrected, truncated as training does.
        judged: {judge's setting: {response: tokens of the prompt about it}}, ``prompt`` for an empty response; rules are
            left out, 0 = too long to be asked.
    """

    stands_for: float
    category: str | None
    test: bool
    repeated: bool
    prompt: int
    responses: Mapping[str, int]
    judged: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def tokens(self, judge: str, response: str) -> int:
        """Returns the tokens that a judge reads about a response, 0 where it is not asked."""
        return self.judged.get(judge, {}).get(response, 0)


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Prompts that both models answer.

    Args:
        number: of them; sent: tokens of all of them as a model gets them.
        read: {judge's setting: tokens of all its prompts about their answers, the answers left out}.
    """

    number: int = 0
    sent: int = 0
    read: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What the stages of a run have to do; tokens are unpadded.

    Args:
        rows: pairs to judge; refused: rows expected to be no pair.
        trained: pairs trained on, by category.
        gold_tokens: tokens of the gold batch's sequences; scored_tokens: of sequences that get s(y).
        policy_tokens: tokens of one epoch's trained sequences; reference_tokens: of those whose KL is taken.
        prompts: that agreement is measured on; attacks: harmful requests, plain and attacked.
        answer_tokens: expected of one answer.
        dev: prompts that each candidate of a selection answers.
        drift_tokens: tokens of the RETAIN pairs whose drift is measured; each model reads them.
    """

    rows: int
    refused: int
    trained: Mapping[str, int]
    gold_tokens: int
    scored_tokens: int
    policy_tokens: int
    reference_tokens: int
    prompts: Prompts
    attacks: Prompts
    answer_tokens: float
    drift_tokens: int = 0
    dev: Prompts = Prompts()


def pair_tokens(pair: SampledPair, names: Sequence[str]) -> int | None:
    """Returns the tokens of the pair's sequences, the responses of these names; None where there are none or it lacks one."""
    if not names or any(name not in pair.responses for name in names):
        return None
    return sum(pair.prompt + pair.responses[name] for name in names)


def workload(
    sample: Sequence[SampledPair],
    rows: int,
    config: Config,
    own: Prompts | None = None,
    attacks: Prompts = Prompts(),
) -> Workload:
    """Returns the work of a whole corpus, extrapolated from a sample of its pairs.

    Args:
        sample: pairs that could be read, at least one.
        rows: rows of the corpus, limits applied.
        own: those of ``evaluate.prompt_file``; None = the held-out prompts of the corpus.
    """
    objective = config.objective
    train = [pair for pair in sample if not pair.test]
    trained, tokens = {}, {}
    shares = category_shares(train, config.plan)
    for name, share in shares.items():
        number, mean = _usable(train, name, objective)
        trained[name] = number * (share if train and train[0].category is None else 1.0)
        tokens[name] = trained[name] * mean
    # Of all conflicts, those too that the method does not train on.
    conflicts = sum(pair.stands_for for pair in train) * sum(shares[name] for name in CONFLICTS)
    keep = min(1.0, config.impact.retain_per_conflict * conflicts / max(1.0, trained["RETAIN"]))
    trained["RETAIN"], tokens["RETAIN"] = trained["RETAIN"] * keep, tokens["RETAIN"] * keep
    scored = [n for n in TRAINED if n in CONFLICTS or objective.needs_reference_log_probs(n)]
    return Workload(
        rows=rows,
        refused=max(0, rows - round(sum(pair.stands_for for pair in sample))),
        trained={name: round(number) for name, number in trained.items()},
        gold_tokens=round(2 * config.impact.gold_size * _mean(sample, lambda p: p.prompt + p.responses["chosen"])),
        scored_tokens=round(sum(tokens[name] for name in scored)),
        policy_tokens=round(sum(tokens.values())),
        reference_tokens=round(sum(tokens[name] for name in TRAINED if objective.compared(name))),
        prompts=own or held_out_prompts(sample, config.evaluate.prompts, config.realign.select),
        attacks=attacks,
        answer_tokens=min(_mean(sample, lambda p: p.responses["chosen"]), config.evaluate.max_new_tokens),
        drift_tokens=round(_drift_tokens(sample, config.plan, config.evaluate.drift_pairs)),
        dev=_prompts(sample, _dev_number(sample, config.realign.select)),
    )


def _drift_tokens(sample: Sequence[SampledPair], plan: PlanConfig, most: int) -> float:
    every = sum(pair.stands_for for pair in sample)
    known = [pair for pair in sample if pair.category is not None]
    retain = [pair for pair in known if pair.category == "RETAIN"] or sample
    pairs = min(every * category_shares(sample, plan)["RETAIN"], most)
    return pairs * _mean(retain, lambda p: p.prompt + p.responses["chosen"])


def held_out_prompts(sample: Sequence[SampledPair], most: int, select: SelectConfig) -> Prompts:
    """Returns the held-out prompts that a selection leaves, at most ``most``, 0 = all; their lengths are those of all."""
    left = _held_out(sample) - _dev_number(sample, select)
    return _prompts(sample, min(left, most or math.inf))


def _held_out(sample: Sequence[SampledPair]) -> float:
    return sum(pair.stands_for for pair in sample if pair.test and not pair.repeated)


def _dev_number(sample: Sequence[SampledPair], select: SelectConfig) -> float:
    """Of the held-out prompts, how many a selection takes."""
    return min(select.prompts, _held_out(sample) / 2) if select.steps else 0.0


def _prompts(sample: Sequence[SampledPair], number: float) -> Prompts:
    """So many prompts as long as the sample's."""
    readers = [name for name in sample[0].judged if name.startswith((EVALUATION, PANEL))]
    return Prompts(
        number=round(number),
        sent=round(number * _mean(sample, lambda p: p.prompt)),
        read={name: round(number * _mean(sample, partial(_tokens_around, name))) for name in readers},
    )


def _tokens_around(judge: str, pair: SampledPair) -> int:
    return pair.tokens(judge, "prompt")


def category_shares(pairs: Sequence[SampledPair], plan: PlanConfig) -> dict[str, float]:
    """Returns the share of each trained category among pairs: counted where rules decide, else as ``plan`` assumes."""
    known = [pair for pair in pairs if pair.category is not None]
    if known:
        every = sum(pair.stands_for for pair in known)
        return {n.value: sum(p.stands_for for p in known if p.category == n) / every for n in TRAINED}
    return assumed_shares(plan)


def assumed_shares(plan: PlanConfig) -> dict[str, float]:
    """Returns the share of each category where only a judge can tell."""
    conflicts = {"INVERT": plan.invert_share, "PUNISH": plan.punish_share}
    return conflicts | {"RETAIN": 1 - sum(conflicts.values())}


def _usable(train: Sequence[SampledPair], category: str, objective: ObjectiveConfig) -> tuple[float, float]:
    """(Pairs of a category that its term can use, mean tokens of one); pairs of no known category count for each."""
    members = [pair for pair in train if pair.category in (category, None)]
    found = [(pair.stands_for, pair_tokens(pair, objective.responses(category))) for pair in members]
    usable = [(number, tokens) for number, tokens in found if tokens is not None]
    pairs = sum(number for number, _ in usable)
    return pairs, sum(number * tokens for number, tokens in usable) / max(pairs, 1e-9)


def _mean(sample: Sequence[SampledPair], value: Callable[[SampledPair], int]) -> float:
    return sum(p.stands_for * value(p) for p in sample) / sum(p.stands_for for p in sample)
