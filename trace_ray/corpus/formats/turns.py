"""Messages as public files write them -> turns of role and content; what else a turn says is kept from being lost.

``{"role", "content"}``, sharegpt's ``{"from", "value"}``, PKU's ``{"role", "text"}``, Capybara's ``{"input", "output"}``;
content as text or as a list of text parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trace_ray.corpus.formats.base import no_dialogue, shown, unsupported
from trace_ray.corpus.formats.marks import ROLES, Decoded, turns_of_text
from trace_ray.pairs import Message

_OWN_ROLES = ("user", "assistant", "system")
_ROLE_KEYS = ("role", "from")
_CONTENT_KEYS = ("content", "value", "text")
_ABOUT_A_TURN = {
    "id",
    "message_id",
    "turn_id",
    "turn_identifier",
    "model",
    "language",
    "lang",
    "timestamp",
    "created_at",
}
_ABOUT_A_TURN |= {"hashed_ip", "source", "type", "state", "country", "header", "metadata"}
"""Keys that say something about a turn and nothing in it; numbers and true/false are taken for that too."""

_WORDS = (str, list, tuple, Mapping, bytes)

_TOOL_ROLES = {
    "tool",
    "function",
    "function_call",
    "observation",
    "ipython",
    "environment",
    "tool_call",
    "tool_response",
}


def turns(value: Any, role: str) -> list[Message]:
    """Returns a dialogue, or one turn, in whatever way it is written; ``role`` is that of a plain text.

    Raises: RejectedRowError for a value that is neither, for a role that is not known, and for a turn with more in it than
        a text.
    """
    if isinstance(value, str):
        found = turns_of_text(value)
        if found is None:
            return [{"role": role, "content": value}]
        if isinstance(found, Decoded):
            return turns(found.value, role)
        announced = role == "user" and len(found) > 1 and found[-1] == {"role": "assistant", "content": ""}
        return found[:-1] if announced else found  # a prompt may end where the answer begins
    if isinstance(value, Mapping):
        return _turn(value)
    if not isinstance(value, (list, tuple)) or not value:
        raise no_dialogue(f"neither text nor a list of messages: {shown(value)}")
    said: list[Message] = []
    for turn in value:
        if (
            type(turn) is dict
            and len(turn) == 2
            and type(turn.get("content")) is str
            and turn.get("role") in _OWN_ROLES
        ):
            said.append(turn)  # as it is: nearly every turn
        else:
            said += _turn(turn)
    return said


def _turn(value: Any) -> list[Message]:
    """Returns the turn; two where one entry holds question and answer."""
    if not isinstance(value, Mapping):
        raise no_dialogue(f"a list of messages holds no message: {shown(value)}")
    role_key = next((key for key in _ROLE_KEYS if value.get(key) is not None), None)
    if role_key is None:
        return _exchange(value)
    content_key = next((key for key in _CONTENT_KEYS if value.get(key) is not None), "")
    role = _role(value[role_key])
    for key, more in value.items():
        if key not in (role_key, content_key):
            _refuse_content(key, more, role)
    if not content_key:
        raise no_dialogue(f"a turn of the {role} without content: {shown(value)}")
    return [{"role": role, "content": text_of(value[content_key])}]


def _role(value: Any) -> str:
    name = value.strip().lower() if isinstance(value, str) else ""
    if name in ROLES:
        return ROLES[name]
    if name in _TOOL_ROLES:
        raise unsupported(f"a turn of the role {value!r}: pairs hold no tool calls and no results of tools")
    raise no_dialogue(f"role {shown(value)} is not known: user, assistant, system, {', '.join(_OTHER_ROLES)} are")


_OTHER_ROLES = [name for name in ROLES if name not in _OWN_ROLES]


def _exchange(value: Mapping[str, Any]) -> list[Message]:
    said = {key: text for key, text in value.items() if text not in (None, "")}
    for ask, answer in (("input", "output"), ("human", "assistant"), ("user", "assistant"), ("prompt", "response")):
        if ask in said and said.keys() <= {ask, answer}:
            found: list[Message] = [{"role": "user", "content": text_of(said[ask])}]
            return [*found, {"role": "assistant", "content": text_of(said[answer])}] if answer in said else found
    raise no_dialogue(f"neither text nor a list of messages: a message has no role: {shown(value)}")


def _refuse_content(key: Any, value: Any, role: str) -> None:
    """Raises RejectedRowError for what a template could show, such as tool calls, reasoning or a name."""
    if key not in _ABOUT_A_TURN and value and isinstance(value, _WORDS):
        raise unsupported(f"a turn of the {role} has {str(key)[:40]}: pairs hold role and content alone")


def text_of(value: Any) -> str:
    """Returns a content: the text, or text parts put together.

    >>> text_of([{"type": "text", "text": "Why"}, "?"])
    'Why?'
    """
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, (list, tuple)):
        raise no_dialogue(f"a turn's content is neither text nor a list of texts: {shown(value)}")
    return "".join(_part(part) for part in value)


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        raise no_dialogue(f"a part of a content is no text: {shown(part)}")
    kind, text = part.get("type", "text"), part.get("text")
    if kind not in ("text", "input_text", "output_text") or not isinstance(text, str):
        raise unsupported(f"a part of a content is of the type {str(kind)[:40]!r}: only text is read")
    for key, more in part.items():
        if (
            key not in ("type", "text", "cache_control", "annotations", "mimeType")
            and more
            and isinstance(more, _WORDS)
        ):
            raise unsupported(f"a part of a content has {str(key)[:40]}: only text is read")
    return text
