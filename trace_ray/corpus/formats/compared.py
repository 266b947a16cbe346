"""Two answers and a label that says which is better: PKU, Chatbot Arena, HelpSteer, WebGPT, SHP, OpenAI's summaries."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from trace_ray.config import CorpusConfig
from trace_ray.corpus.formats.base import Format, RawPair, Row, needed, no_dialogue, no_preference, shown
from trace_ray.corpus.formats.dialogues import join
from trace_ray.corpus.formats.labels import hold_margin, number, truth, which
from trace_ray.corpus.formats.layout import PROMPTS
from trace_ray.corpus.formats.prompts import is_texts
from trace_ray.corpus.formats.turns import turns
from trace_ray.pairs import Message

_SECOND_SPEAKER = re.compile(r"\n?<extra_id_1>(User|Assistant)\n")


def asked(row: Row) -> Any:
    """Returns a row's prompt, under the first of the names of ``layout.PROMPTS`` that is there."""
    return needed(row, next((name for name in PROMPTS if row.get(name) is not None), "prompt"))


def _ordered(first: Any, second: Any, better: int) -> tuple[Any, Any]:
    return (first, second) if better == 0 else (second, first)


def read_pku(row: Row, _config: CorpusConfig) -> list[RawPair]:
    """The paper's pairing: a pair needs a safer_response_id; if one response alone is safe it is chosen, else the safer.

    Source: datagen/create_pku_dpo_dataset.py of the paper's code. Ours: a row without ``safer_response_id`` at all
    falls back to ``better_response_id``, which alone decides where there are no ``is_response_{0,1}_safe`` either.
    """
    responses = needed(row, "response_0"), needed(row, "response_1")
    if "is_response_0_safe" not in row and "is_response_1_safe" not in row:
        better = which(row, "better_response_id" if "better_response_id" in row else "safer_response_id")
    else:
        better = which(row, "safer_response_id" if "safer_response_id" in row else "better_response_id")
        safe = truth(row, "is_response_0_safe"), truth(row, "is_response_1_safe")
        better = better if safe[0] == safe[1] else int(safe[1])
    return [join(asked(row), *_ordered(*responses, better))]


def read_arena(row: Row, _config: CorpusConfig) -> list[RawPair]:
    """Chatbot Arena and MT-bench: two dialogues and the winner; ``turn`` says up to which answer it is meant."""
    first, second = (_until(needed(row, name), row.get("turn")) for name in ("conversation_a", "conversation_b"))
    return [join(None, *_ordered(first, second, _winner(row)))]


def read_arena_votes(row: Row, _config: CorpusConfig) -> list[RawPair]:
    """Chatbot Arena as the 55k release has it: prompts and answers as JSON lists of texts, the winner in three columns."""
    prompts = _texts(row, "prompt")
    first, second = (_interleaved(prompts, _texts(row, name)) for name in ("response_a", "response_b"))
    return [join(None, *_ordered(first, second, _winner(row)))]


def _winner(row: Row) -> int:
    if row.get("winner") is None and any(name in row for name in ("winner_model_a", "winner_model_b")):
        won = [truth(row, name) for name in ("winner_model_a", "winner_model_b")]
        if won[0] == won[1]:
            raise no_preference("a tie: neither model won")
        return int(won[1])
    said = needed(row, "winner")
    name = said.strip().lower() if isinstance(said, str) else ""
    if name not in ("model_a", "model_b", "a", "b"):
        raise no_preference(f"winner is {shown(said)}, neither model_a nor model_b")
    return int(name.endswith("b"))


def _until(value: Any, turn: Any) -> list[Message]:
    """Returns the dialogue up to its ``turn``-th answer; all of it where no number is given."""
    found, last = turns(value, "assistant"), number(turn)
    answers = [i for i, turn in enumerate(found) if turn["role"] == "assistant"]
    if last is None or not 1 <= last <= len(answers) or last % 1:
        return found
    return found[: answers[int(last) - 1] + 1]


def _texts(row: Row, name: str) -> list[str]:
    value = needed(row, name)
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.lstrip().startswith("[") else [value]
        except (ValueError, RecursionError):
            value = [value]
    if not is_texts(value):
        raise no_dialogue(f"{name} is no list of texts: {shown(value)}")
    return list(value)


def _interleaved(prompts: list[str], answers: list[str]) -> list[Message]:
    if len(prompts) != len(answers):
        raise no_dialogue(f"{len(prompts)} prompts and {len(answers)} answers")
    both = zip(prompts, answers, strict=True)
    return [
        {"role": role, "content": text}
        for exchange in both
        for role, text in zip(("user", "assistant"), exchange, strict=True)
    ]


def read_helpsteer(row: Row, config: CorpusConfig) -> list[RawPair]:
    """HelpSteer 3 and the preferences of HelpSteer 2: below 0 the first answer is better, by so much."""
    spelt = "response_{}" if "response_1" in row else "response{}"
    first, second = (needed(row, spelt.format(i)) for i in (1, 2))
    name = "overall_preference" if row.get("overall_preference") is not None else "preference_strength"
    strength = number(needed(row, name))
    if strength is None:
        raise no_preference(f"{name} is {shown(row[name])}, no number")
    hold_margin(abs(strength), config, f"{name} {strength:g}")
    prompt = asked(row)
    prompt = _speakers(prompt) if isinstance(prompt, str) else prompt
    return [join(prompt, *_ordered(first, second, int(strength > 0)))]


def _speakers(text: str) -> Any:
    """HelpSteer 2 marks who speaks from the second turn on."""
    pieces = _SECOND_SPEAKER.split(text)
    if len(pieces) == 1:
        return text
    roles = ["user", *(name.lower() for name in pieces[1::2])]
    return [{"role": role, "content": said.strip()} for role, said in zip(roles, pieces[::2], strict=True)]


def read_webgpt(row: Row, config: CorpusConfig) -> list[RawPair]:
    """WebGPT comparisons: the answer with the higher score."""
    question = needed(row, "question")
    question = question.get("full_text") if isinstance(question, Mapping) else question
    return [join(_text(question, "question.full_text"), *_by_score(row, "answer_{}", "score_{}", "01", config))]


def read_shp(row: Row, config: CorpusConfig) -> list[RawPair]:
    """Stanford's SHP: ``labels`` is 1 where answer A is preferred."""
    history = needed(row, "history")
    better = 1 - which(row, "labels")
    scores = [number(row.get(f"score_{side}")) for side in "AB"]
    if scores[0] is not None and scores[1] is not None:
        ahead = scores[better] - scores[1 - better]  # type: ignore[operator] # both are numbers here
        hold_margin(ahead, config, f"scores {scores[0]:g} and {scores[1]:g}, labels {row['labels']}")
    return [join(history, *_ordered(needed(row, "human_ref_A"), needed(row, "human_ref_B"), better))]


def _by_score(row: Row, answer: str, score: str, sides: str, config: CorpusConfig) -> tuple[Any, Any]:
    """Returns the better and the worse answer."""
    first, second = (number(row.get(score.format(side))) for side in sides)
    if first is None or second is None:
        raise no_preference(f"{score.format(sides[0])} and {score.format(sides[1])} are not both numbers")
    hold_margin(abs(first - second), config, f"scores {first:g} and {second:g}")
    texts = [needed(row, answer.format(side)) for side in sides]
    return _ordered(texts[0], texts[1], int(second > first))


def read_summaries(row: Row, _config: CorpusConfig) -> list[RawPair]:
    """OpenAI's summarize_from_feedback: a post or article, two summaries and which was chosen; the prompt as in its paper."""
    info, summaries = needed(row, "info"), needed(row, "summaries")
    if not isinstance(info, Mapping) or not isinstance(summaries, (list, tuple)) or len(summaries) != 2:
        raise no_dialogue("info is no mapping, or summaries are not two")
    texts = [summary.get("text") if isinstance(summary, Mapping) else None for summary in summaries]
    first, second = (_text(text, "summaries.text") for text in texts)
    if info.get("post"):
        head = [(name.upper(), info.get(name)) for name in ("subreddit", "title")]
        lines = [
            f"{name}: {'r/' if name == 'SUBREDDIT' else ''}{value}" for name, value in head if isinstance(value, str)
        ]
        lines.append(f"POST: {_text(info['post'], 'info.post')}")
    else:
        lines = [f"Article: {_text(info.get('article'), 'info.article')}"]
    prompt: list[Message] = [{"role": "user", "content": "\n\n".join([*lines, "TL;DR:"])}]
    return [join(prompt, *_ordered(first, second, which(row, "choice")))]


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise no_dialogue(f"{name} is no text: {shown(value)}")
    return value


FORMATS = (
    Format("pku_saferlhf", ("response_0", "response_1"), read_pku),
    Format("arena", ("conversation_a", "conversation_b"), read_arena),
    Format("arena_votes", ("response_a", "response_b", "winner_model_a|winner"), read_arena_votes),
    Format(
        "helpsteer",
        ("response1|response_1", "response2|response_2", "overall_preference|preference_strength"),
        read_helpsteer,
    ),
    Format("webgpt", ("answer_0", "answer_1", "score_0"), read_webgpt),
    Format("shp", ("human_ref_A", "human_ref_B", "labels"), read_shp),
    Format("summaries", ("info", "summaries", "choice"), read_summaries),
)
