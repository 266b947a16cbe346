"""Where an answer begins in a dialogue that a template writes, and how it ends: found by trying the template out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from trace_ray.pairs import Message

_QUESTION, _ANSWER = "\x02QUESTION\x03", "\x02RESPONSE\x03"
_AWKWARD = '"it\'s" <b>a & b</b> {x}\n\n- one\t two  three\\n'
"""What a template that quotes or escapes would not write as it is."""
_PROBES = (
    [{"role": "user", "content": _QUESTION}],
    [{"role": "system", "content": "be brief"}, {"role": "user", "content": _QUESTION}],
    [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "second"},
        {"role": "user", "content": _QUESTION},
    ],
)
"""A template must take the first; one that refuses system turns, or several, refuses those rows alone."""
Trim = Callable[[str], str]
TRIMS: tuple[Trim, ...] = (
    lambda text: text,
    str.strip,
    str.lstrip,
    str.rstrip,
    lambda text: text.strip("\n"),
    lambda text: text.lstrip("\n"),
    lambda text: text.rstrip("\n"),
)
"""What templates do to a turn's text."""


class TemplateRefusesError(ValueError):
    """The template does not take this dialogue: its roles, their order, or an answer that it cannot write after them."""


class UnfitTemplateError(ValueError):
    """No prompt of this template ends as an answer begins, so none of its dialogues can be trained on."""


class Write(Protocol):
    """Writes a dialogue as the template does. Raises TemplateRefusesError where it takes no such dialogue."""

    def __call__(self, turns: Sequence[Message], *, generate: bool) -> str: ...


@dataclass(frozen=True)
class Join:
    """How prompt and answer meet.

    Args:
        drop, add: what the rendering with ``add_generation_prompt`` loses and gains at its end to be the prompt.
        lead: blanks that the answer begins with.
        end: what the template writes behind the last answer.
    """

    drop: str
    add: str
    lead: str
    end: str

    def cut(self, text: str) -> str:
        """Returns the prompt of a rendering with ``add_generation_prompt``."""
        return text.removesuffix(self.drop) + self.add if self.drop or self.add else text


def find_join(write: Write, *, thinks: bool) -> Join:
    """Returns how prompt and answer meet, the same for every dialogue that the template takes.

    Args:
        thinks: thinking was asked for: what it writes before an answer then is no mere blank.
    Raises: TemplateRefusesError where it does not write a question and its answer; UnfitTemplateError.
    """
    joins = {_joined(write, _PROBES[0], thinks=thinks)}
    for probe in _PROBES[1:]:
        try:
            joins.add(_joined(write, probe, thinks=thinks))
        except TemplateRefusesError:  # such rows are refused one by one
            continue
    if len(joins) > 1:
        raise UnfitTemplateError("its chat template does not end a prompt as an answer begins; give another")
    return joins.pop()


def _joined(write: Write, turns: list[dict[str, str]], *, thinks: bool) -> Join:
    begun = write(turns, generate=True)
    whole = write([*turns, {"role": "assistant", "content": _ANSWER}], generate=False)
    if whole.count(_ANSWER) != 1 or begun.count(_QUESTION) != 1:
        raise TemplateRefusesError("it drops, changes or repeats a turn's text")
    head, _, end = whole.partition(_ANSWER)
    common = common_start(begun, head)
    drop, add = begun[len(common) :], head[len(common) :]
    if not drop and (thinks or not add.strip()):
        return Join("", "", add, end)
    blank = not drop.strip() and not add
    if not blank and (_QUESTION not in common or (thinks and drop)):
        raise UnfitTemplateError(
            "its chat template does not end a prompt as an answer begins"
            + ("; leave thinking off, its dialogues show no thoughts" if thinks else "; give another")
        )
    return Join(drop, add, "", end)


def find_trim(write: Write, join: Join) -> Trim | None:
    """Returns what the template does to an answer, which is to trim it at most; None where each must be looked at."""
    turns = _PROBES[0]
    head = join.cut(write(turns, generate=True)) + join.lead

    def written(text: str) -> str | None:
        whole = write([*turns, {"role": "assistant", "content": text}], generate=False)
        fits = whole.startswith(head) and whole.endswith(join.end)
        return whole[len(head) : len(whole) - len(join.end)] if fits else None

    if written(_AWKWARD + "x") != _AWKWARD + "x":
        return None
    blanks = f"\n \n {_ANSWER} \n \n"
    seen = written(blanks)
    return next((trim for trim in TRIMS if trim(blanks) == seen), None)


def common_start(text: str, other: str) -> str:
    """Returns what both texts begin with.

    >>> common_start("assistant", "assign")
    'assi'
    """
    pairs = enumerate(zip(text, other, strict=False))
    return text[: next((at for at, (a, b) in pairs if a != b), min(len(text), len(other)))]
