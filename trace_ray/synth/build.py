"""Builds the default world's tiny models: ``python -m trace_ray.synth.build [--out DIR]``; eight minutes on one core.

``policy/`` is the model to realign. First it learns the world as a pretrained model knows it: every style on every
topic, though half of the time in the style a careless writer would use for the group (TYPICAL), so that it can tell
the groups apart. Then it is aligned: old-policy answers, with a fifth of the first training mixed in, so that it
complies with the old policy when greedy and still has somewhere to move to.

``judge/`` starts from the same pretrained model, reads ``triage.prompt``'s judge prompt and answers Yes or No by the
oracle, under both policies in equal parts: only the policy's text tells it which. A quarter of the replies it learns
from are damaged. Both models see train topics and train phrasings only.
"""

from __future__ import annotations

import argparse
import copy
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import torch
import yaml
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from trace_ray.config.policy import ClauseConfig, PolicyConfig, RuleConfig
from trace_ray.judges.prompt import JUDGED, judge_instruction, judged_text
from trace_ray.synth import oracle
from trace_ray.synth.lexicon import (
    CLOSINGS,
    GREETINGS,
    HEADS,
    HELD_OUT_PHRASINGS,
    OPENINGS,
    PHRASINGS,
    PLACE_ENDS,
    PLACE_STARTS,
)
from trace_ray.synth.tiny import Example, answer_loss, fit, new_model, train_tokenizer, user_turn, verdict_loss
from trace_ray.synth.world import GROUPS, PLACES, STYLES, draw_prompt, draw_response, topics

MODELS: Final = Path(__file__).parent / "models"
POLICIES: Final = Path(__file__).parents[2] / "conf" / "policies"
TYPICAL: Final = {
    "benign": "helpful",
    "sensitive_educational": "careful",
    "sensitive_operational": "reckless",
    "zero_tolerance": "refuse",
}


def load_policy(name: str) -> PolicyConfig:
    """Returns ``conf/policies/<name>.yaml``."""
    fields: dict[str, Any] = yaml.safe_load((POLICIES / f"{name}.yaml").read_text())["policy"]
    fields.pop("previous", None)
    clauses = [ClauseConfig(**{**c, "rule": RuleConfig(**c["rule"])}) for c in fields.pop("clauses")]
    return PolicyConfig(**fields, clauses=clauses)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Returns the tokenizer of both models: every word of the lexicon and of the judge prompts."""
    frames = [frame for table in (PHRASINGS, HELD_OUT_PHRASINGS) for frames in table.values() for frame in frames]
    sentences = [f"{before}locks{after}" for before, after in frames]
    sentences += [f"{opening}locks" for style in STYLES for opening in OPENINGS[style]]
    sentences += [f"locks{closing}" for style in STYLES for closing in CLOSINGS[style]]
    sentences += [f" {head}" for heads in HEADS.values() for head in heads]
    sentences += [judge_instruction(load_policy(name)) for name in ("synth_old", "synth_new")]
    sentences += [*GREETINGS, "user\n", "assistant\n", "system\n", "Yes", "No", judged_text("", "")]
    return train_tokenizer(sentences, [*(f" {start}" for start in PLACE_STARTS), *PLACE_ENDS], PLACES)


def draw_pretraining(rng: random.Random) -> Example:
    """Returns a request and a reply in any style."""
    group = rng.choice(GROUPS)
    prompt, topic = draw_prompt(rng, group, test=False)
    return prompt, draw_response(rng, TYPICAL[group] if rng.random() < 0.5 else rng.choice(STYLES), topic)


def draw_aligned(rng: random.Random) -> Example:
    """Returns a request and, mostly, the reply that is right under the old policy."""
    if rng.random() < 0.2:
        return draw_pretraining(rng)
    group = rng.choice(GROUPS)
    prompt, topic = draw_prompt(rng, group, test=False)
    return prompt, draw_response(rng, oracle.OLD[group], topic)


def draw_verdict(rng: random.Random, policy: PolicyConfig, damaged: float = 0.25) -> Example:
    """Returns a judge prompt and its answer.

    The group on which the policies differ, and the one that only its tier tells from it, make up a third each: a judge
    trained too little confuses them.
    """
    right, violates = (oracle.OLD, oracle.violates_old) if policy.name == "synth_old" else (oracle.NEW, oracle.violates)
    group = rng.choice((*GROUPS, "sensitive_educational", "zero_tolerance"))
    prompt, topic = draw_prompt(rng, group, test=False)
    likely = [*STYLES, right[group], right[group], oracle.OLD[group], oracle.NEW[group]]
    response = draw_response(rng, rng.choice(likely), topic)
    if rng.random() < damaged:
        response = damage(rng, response, topic)
    return judge_turn(policy, prompt, response), "Yes" if violates(prompt, response) else "No"


def damage(rng: random.Random, response: str, topic: str) -> str:
    """Returns a reply gone wrong: cut, shuffled, stuttering, of two styles, of another tier, or none."""
    words = response.split(" ")
    kind = rng.randrange(7)
    if kind == 0:
        return " ".join(words[: rng.randrange(len(words))])
    if kind == 1:
        rng.shuffle(words)
        return " ".join(words)
    if kind == 2:
        at = rng.randrange(len(words))
        return " ".join(words[: at + 1] + words[at : at + 1] * rng.randint(1, 6) + words[at + 1 :])
    if kind == 3:
        return f"{rng.choice(OPENINGS[rng.choice(STYLES)])}{topic}{rng.choice(CLOSINGS[rng.choice(STYLES)])}"
    if kind == 4:
        return response.replace(topic, rng.choice(topics(rng.choice(list(HEADS)), test=False)))
    if kind == 5:
        return f"{response} {draw_response(rng, rng.choice(STYLES), topic)}"
    del words[rng.randrange(len(words))]
    return " ".join(words)


def judge_turn(policy: PolicyConfig, prompt: str, response: str) -> str:
    """Returns the user turn that the judge stage sends for one response."""
    return judge_instruction(policy).replace(JUDGED, judged_text(prompt, response))


def build_policy(tokenizer: PreTrainedTokenizerFast) -> tuple[LlamaForCausalLM, LlamaForCausalLM]:
    """Returns the pretrained model and the same model aligned to the old policy."""
    model = new_model(tokenizer, layers=3, seed=0)

    def loss_on(draw: Callable[[random.Random], Example]) -> Callable[[random.Random], torch.Tensor]:
        return lambda rng: answer_loss(model, tokenizer, [draw(rng) for _ in range(32)])

    report("policy, pretraining", fit(model, loss_on(draw_pretraining), steps=500, lr=3e-3, seed=0))
    pretrained = copy.deepcopy(model)
    report("policy, alignment", fit(model, loss_on(draw_aligned), steps=250, lr=2e-3, seed=1))
    return pretrained, model


def build_judge(tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM) -> LlamaForCausalLM:
    """Returns the pretrained model turned into a judge."""
    policies = [load_policy(name) for name in ("synth_old", "synth_new")]
    prefixes = [user_turn(tokenizer, judge_instruction(policy)).split(JUDGED)[0] for policy in policies]

    def loss_of(rng: random.Random) -> torch.Tensor:
        batches = [[draw_verdict(rng, policy) for _ in range(16)] for policy in policies]
        losses = [verdict_loss(model, tokenizer, p, b) for p, b in zip(prefixes, batches, strict=True)]
        return torch.stack(losses).mean()

    report("judge", fit(model, loss_of, steps=1600, lr=2e-3, seed=2))
    agreed = min(agreement(model, tokenizer, policy) for policy in policies)
    if agreed < 0.99:
        raise RuntimeError(f"the judge agrees with the oracle on {agreed:.3f} of train topics: try another seed")
    return model


@torch.inference_mode()
def agreement(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, policy: PolicyConfig) -> float:
    """Returns the share of 300 undamaged replies on train topics whose verdict is the oracle's.

    A guard, not a result: this training depends on its seed, and which one ships must not be chosen on test topics.
    """
    rng, agreed = random.Random(3), 0  # noqa: S311 - no secret
    for _ in range(300):
        user, answer = draw_verdict(rng, policy, damaged=0.0)
        ids_T = tokenizer(user_turn(tokenizer, user), add_special_tokens=False).input_ids
        best = int(model(input_ids=torch.tensor([ids_T]), logits_to_keep=1).logits.argmax())
        agreed += best == tokenizer.convert_tokens_to_ids(answer)
    return agreed / 300


def report(what: str, losses: Iterator[tuple[int, float]]) -> None:
    """Runs a training and prints a line every hundred steps."""
    start = time.monotonic()
    for step, loss in losses:
        if step % 100 == 99:
            print(f"{what}: step {step + 1} loss {loss:.3f} {time.monotonic() - start:.0f} s", flush=True)  # noqa: T201


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the default world's two models.")
    parser.add_argument("--out", type=Path, default=MODELS, help="folder for policy/ and judge/ (default: %(default)s)")
    out: Path = parser.parse_args().out
    torch.set_num_threads(1)  # the same sums in the same order on every machine of one kind
    tokenizer = build_tokenizer()
    pretrained, aligned = build_policy(tokenizer)
    for name, model in (("policy", aligned), ("judge", build_judge(tokenizer, pretrained))):
        model.save_pretrained(out / name)
        tokenizer.save_pretrained(out / name)


if __name__ == "__main__":
    main()
