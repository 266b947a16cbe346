"""Dialogues written as one text: HH's ``Human:`` and ``Assistant:``, a chat template's own marks, JSON.

A text is one only where it begins with a mark: what a template's marks or a role's name are within a text stays text.
The one exception is HH's mark in the middle of a text that does not begin with one: whether it is a dialogue cannot be
told, and it is refused.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from trace_ray.corpus.formats.base import no_dialogue
from trace_ray.pairs import Message

ROLES = {
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "chatbot": "assistant",
    "chatgpt": "assistant",
    "ai": "assistant",
    "system": "system",
    "developer": "system",
}
"""What the roles of public files are called here; upper and lower case are the same."""

_STARTING = frozenset("HUPAS#<[{") | {""}
_NAMES = "Human|HUMAN|User|USER|Prompter|Assistant|ASSISTANT|System|SYSTEM"
_ROLE_OF = {name: ROLES[name.lower()] for name in _NAMES.split("|")}
_STARTS = re.compile(rf"\s*(?:###\s*)?(?:{_NAMES})\s*:")
_PARAGRAPHS = re.compile(r"\n\n(Human|Assistant):")
_CRLF_PARAGRAPHS = re.compile(r"\r\n\r\n(Human|Assistant):")
_LINES = re.compile(rf"\n[ \t]{{0,4}}(?:###[ \t]{{0,4}})?({_NAMES})[ \t]{{0,4}}:")
_HH_START = re.compile(r"\s*(?:Human|Assistant):")

_RENDERED = (
    re.compile(r"<\|im_start\|>(\w+)\n?(.*?)(?:<\|im_end\|>\s*|\Z)", re.DOTALL),
    re.compile(r"<\|start_header_id\|>(\w+)<\|end_header_id\|>\n*(.*?)(?:<\|eot_id\|>\s*|\Z)", re.DOTALL),
    re.compile(r"<start_of_turn>(\w+)\n?(.*?)(?:<end_of_turn>\s*|\Z)", re.DOTALL),
    re.compile(
        r"<\|(system|user|assistant|prompter)\|>\n?(.*?)(?:(?:</s>|<\|end\|>|<\|endoftext\|>)\s*|\Z)", re.DOTALL
    ),
)
_BEGINS_TURN = (
    *("<|im_start|>", "<|start_header_id|>", "<start_of_turn>"),
    *("<|system|>", "<|user|>", "<|assistant|>", "<|prompter|>"),
)
_FOREIGN = ("[INST]", "<<SYS>>", "<|start|>", "<|START_OF_TURN_TOKEN|>", "<\uff5cUser\uff5c>", "<|User|>")
_BEGINS_TEXT = re.compile(
    "\\s*(?:<s>|<bos>|<\\|begin_of_text\\|>|<\\|startoftext\\|>|<\uff5cbegin\u2581of\u2581sentence\uff5c>)?\\s*"
)
_ENDS_TURN = (
    *("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "</s>", "<|end|>"),
    *("<|endoftext|>", "<eos>", "<|end_of_text|>"),
)
_PYTHON_LIST = re.compile(r"\[\s*\{\s*'(?:role|content|from|value)'\s*:")


class Decoded(NamedTuple):
    """A turn, or a list of turns, that was JSON within a text."""

    value: Any


def turns_of_text(text: str) -> list[Message] | Decoded | None:
    """Returns the turns of a dialogue written as text, or None for a text that is just a text.

    Raises: RejectedRowError for a text that may be a dialogue but cannot be read as one.
    """
    if text.startswith("\n\nHuman:"):  # as HH-RLHF has every row
        return _spoken(text)
    if text.lstrip()[:1] in _STARTING:
        found = _from_its_start(text)
        if found is not None:
            return found
    if holds_hh(text):
        raise no_dialogue(f"a turn's mark (Human: or Assistant:) within a text that begins with none: {text[:60]!r}")
    return None


def _from_its_start(text: str) -> list[Message] | Decoded | None:
    first = text.lstrip()[:1]
    if first not in "<[{":
        return _spoken(text) if _STARTS.match(text) else None
    rendered = _rendered(text) if first != "{" else None
    return _as_json(text) if rendered is None and first != "<" else rendered


def holds_hh(text: str) -> bool:
    """Returns whether a paragraph of a text begins as a turn of HH-RLHF does."""
    if "\n" not in text:
        return False
    return "\n\nHuman:" in text or "\n\nAssistant:" in text or ("\r" in text and bool(_CRLF_PARAGRAPHS.search(text)))


def is_plain(*texts: Any) -> bool:
    """Returns whether values are texts and nothing but texts: ``turns_of_text`` would find no dialogue, and no mark."""
    for text in texts:
        if type(text) is not str or text.lstrip()[:1] in _STARTING or text.rstrip()[-1:] == ">" or holds_hh(text):
            return False
    return True


def is_hh(text: str) -> bool:
    """Returns whether a text begins as HH-RLHF's dialogues do.

    >>> is_hh("Human: Why?"), is_hh("Human rights?")
    (True, False)
    """
    return bool(_HH_START.match(text))


def answer_of_rendered(text: str) -> str:
    """Returns an answer without the template's end mark, where its prompt was rendered with one.

    >>> answer_of_rendered("So.<|im_end|>")
    'So.'
    """
    bare = text.strip()
    for mark in _ENDS_TURN:
        bare = bare.removesuffix(mark).rstrip()
    return bare


def ends_rendered(text: str) -> bool:
    """Returns whether a text ends with a chat template's end of turn."""
    bare = text.rstrip()
    return bare[-1:] == ">" and bare.endswith(_ENDS_TURN)


def begins_rendered(text: str) -> bool:
    """Returns whether a text begins with a chat template's mark of a turn."""
    start = _BEGINS_TEXT.match(text)
    return text.startswith((*_BEGINS_TURN, *_FOREIGN), start.end() if start else 0)


def _spoken(text: str) -> list[Message] | None:
    """HH's turns stand in paragraphs of their own; other files have them in lines, and then both speakers must speak."""
    crlf = "\r" in text and "\r\n\r\n" in text
    begun = text if text.startswith("\n\nHuman:") and not crlf else ("\r\n\r\n" if crlf else "\n\n") + text.lstrip()
    pieces = (_CRLF_PARAGRAPHS if crlf else _PARAGRAPHS).split(begun)
    names = [_ROLE_OF[name] for name in pieces[1::2]]
    if "assistant" in names and "user" in names:
        return _turns(names, pieces[2::2])
    lines = _LINES.split(begun)
    if names and len(lines) == len(pieces):  # one turn, and no other mark in it
        return _turns(names, pieces[2::2])
    names = [_ROLE_OF[name] for name in lines[1::2]]
    if "user" in names and "assistant" in names:
        return _turns(names, lines[2::2])
    return None


def _turns(names: list[str], texts: list[str]) -> list[Message]:
    return [{"role": name, "content": text.strip()} for name, text in zip(names, texts, strict=True)]


def _rendered(text: str) -> list[Message] | None:
    start = _BEGINS_TEXT.match(text)
    begin = start.end() if start else 0
    if text.startswith(_FOREIGN, begin):
        raise no_dialogue(f"already rendered with a chat template: give messages instead: {text[:60]!r}")
    if not text.startswith(_BEGINS_TURN, begin):
        return None
    for template in _RENDERED:
        at, names, texts = begin, [], []
        while found := template.match(text, at):
            role = ROLES.get(found[1].lower())
            if role is None:
                raise no_dialogue(f"rendered with a chat template, role {found[1]!r}: known are {', '.join(ROLES)}")
            names.append(role)
            texts.append(found[2])
            if any(mark in found[2] for mark in _BEGINS_TURN):
                break
            at = found.end()
            if at >= len(text):
                return _turns(names, texts)
    raise no_dialogue(f"already rendered with a chat template, and not to be parsed: give messages: {text[:60]!r}")


def _as_json(text: str) -> Decoded | None:
    """Decoded JSON where it is a turn or a list of turns; an answer may well be other JSON, and stays text."""
    if _PYTHON_LIST.match(text.lstrip()):
        raise no_dialogue(f"a list of turns as Python prints it, which is not JSON: {text[:60]!r}")
    if not ('"content"' in text or '"value"' in text or '"text"' in text):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    some = value if isinstance(value, list) else [value]
    if some and all(isinstance(turn, dict) and ("role" in turn or "from" in turn) for turn in some):
        return Decoded(value)
    return None
