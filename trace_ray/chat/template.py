"""A model's chat template: how it writes a dialogue, where an answer begins in it, and how that answer ends."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from trace_ray.chat.join import TRIMS, Join, TemplateRefusesError, UnfitTemplateError, find_join, find_trim
from trace_ray.chat.source import TemplateSource, TemplateSourceError, template_source
from trace_ray.errors import UserError, nearest
from trace_ray.pairs import Message

THINKING = {"enable_thinking": False, "thinking": False}
"""The switches that templates know, and how they stand unless ``chat_template_kwargs`` says otherwise."""
_GIVEN = {"messages", "add_generation_prompt", "tools", "documents", "bos_token", "eos_token", "strftime_now"}


class Asked(Protocol):
    """What a configuration says about the template: ``ModelConfig`` or ``JudgeConfig``."""

    @property
    def chat_template(self) -> str: ...
    @property
    def chat_template_kwargs(self) -> dict[str, Any]: ...
    @property
    def chat_template_date(self) -> str: ...


class ChatTemplate:
    """Writes dialogues as text, special tokens included, each of them as the template has it.

    The prompt is what the template writes before the last answer of a dialogue. Where its generation prompt differs from
    that in blanks alone, the generation prompt counts and the blanks belong to the answer (Mistral, Vicuna). An empty
    think block or a channel's name before the answer belongs to the prompt: thinking is off unless
    ``chat_template_kwargs`` asks for it.

    Args:
        tokenizer: of transformers.
        asked: template, variables and date of the configuration.
        where: the section of ``asked``, named in errors.
    Raises: UserError where there is no template, or one that cannot be trained on; it says what to do.
    """

    def __init__(self, tokenizer: Any, asked: Asked, where: str = "model") -> None:
        self.tokenizer, self.where = tokenizer, where
        self.text = template_text(tokenizer, asked.chat_template, where)
        try:
            self.source: TemplateSource = template_source(self.text)
        except TemplateSourceError as error:
            raise self._mistake(f"its chat template is no jinja: {error}") from None
        self.thinks = any(asked.chat_template_kwargs.get(name) for name in THINKING)
        self.variables = self._variables(asked)
        self.parts = False
        self.join = self._probed()
        self.end = self.join.end.rstrip() or self._eos()
        self.trim = find_trim(self.write, self.join)

    def _mistake(self, remedy: str) -> UserError:
        return UserError(f"{self.where}.chat_template", self.tokenizer.name_or_path, remedy)

    def _variables(self, asked: Asked) -> dict[str, Any]:
        known = self.source.variables
        for name in asked.chat_template_kwargs:
            if name not in known:
                own = sorted(known - _GIVEN)
                remedy = f"its chat template reads no such variable; it reads {', '.join(own) or 'none'}"
                raise UserError(f"{self.where}.chat_template_kwargs", name, f"{remedy}{nearest(name, own)}")
        found = {name: value for name, value in THINKING.items() if name in known} | asked.chat_template_kwargs
        if "strftime_now" in known:
            day = asked.chat_template_date
            then = dt.date.fromisoformat(day) if day else dt.datetime.now().astimezone().date()
            found["strftime_now"] = dt.datetime.combine(then, dt.time()).strftime
        return found

    def _eos(self) -> str:
        if not self.tokenizer.eos_token:
            remedy = "its chat template writes nothing behind an answer and the tokenizer has no end-of-text token: "
            raise self._mistake(remedy + "give a chat_template that ends a turn with a mark")
        return str(self.tokenizer.eos_token)

    def write(self, turns: Sequence[Message], *, generate: bool) -> str:
        """Returns the template's own rendering. Raises TemplateRefusesError where it takes no such dialogue."""
        (text,) = self._written([turns], generate=generate)
        return text

    def _written(self, dialogues: Sequence[Sequence[Message]], *, generate: bool) -> list[str]:
        from jinja2 import TemplateError

        if self.parts:
            dialogues = [[{**t, "content": [{"type": "text", "text": t["content"]}]} for t in d] for d in dialogues]  # type: ignore[dict-item]
        try:
            return self.tokenizer.apply_chat_template(  # type: ignore[no-any-return]
                list(map(list, dialogues)),
                chat_template=self.text,
                tokenize=False,
                add_generation_prompt=generate,
                **self.variables,
            )
        except (TemplateError, TypeError) as error:  # TypeError: it joins a text and nothing
            raise TemplateRefusesError(" ".join(str(error).split())[:200]) from None

    def prompts(self, dialogues: Sequence[Sequence[Message]]) -> list[str | TemplateRefusesError]:
        """Returns each prompt's text up to where the answer begins, or why the template takes no such dialogue."""
        if not dialogues:
            return []
        try:
            return [self.join.cut(text) for text in self._written(dialogues, generate=True)]
        except TemplateRefusesError as error:
            if len(dialogues) == 1:
                return [error]
        return [ids for dialogue in dialogues for ids in self.prompts([dialogue])]

    def prompt(self, turns: Sequence[Message]) -> str:
        """As ``prompts``, of one dialogue. Raises TemplateRefusesError."""
        return self.join.cut(self.write(turns, generate=True))

    def pieces(self, turns: Sequence[Message], prompt: str) -> list[str] | None:
        """Returns the prompt's text in pieces: marks, a turn's text, marks, ..., marks; None where they cannot be told apart.

        Args:
            turns, prompt: a dialogue and its ``prompts`` text.
        """
        names = [f"\x02C{number}\x03" for number in range(len(turns))]
        rest = self.prompt([{**turn, "content": name} for turn, name in zip(turns, names, strict=True)])
        marks: list[str] = []
        for name in names:
            before, found, rest = rest.partition(name)
            if not found:
                return None
            marks.append(before)
        found_at, pieces = len(marks[0]), [marks[0]]
        for turn, after in zip(turns, [*marks[1:], rest], strict=True):
            texts = (trim(turn["content"]) for trim in TRIMS)
            text = next((text for text in texts if prompt.startswith(text + after, found_at)), None)
            if text is None:
                return None
            pieces += [text, after]
            found_at += len(text) + len(after)
        return pieces if found_at == len(prompt) and prompt.startswith(marks[0]) else None

    def answer(self, turns: Sequence[Message], prompt: str, text: str) -> str:
        """Returns what follows the prompt where ``text`` is the answer: as the template writes it, trimmed as it trims.

        Args:
            turns, prompt: the dialogue and its ``prompts`` text.
        Raises: TemplateRefusesError where the template writes this answer so that it does not follow the prompt.
        """
        plain = self.trim(text) if self.trim else ""
        if plain and not any(mark in plain for mark in self.source.marks):
            return self.join.lead + plain + self.end
        whole = self.write([*turns, {"role": "assistant", "content": text}], generate=False)
        if not whole.startswith(prompt) or not whole[len(prompt) :].endswith(self.join.end):
            raise TemplateRefusesError("it writes this answer so that it does not follow the prompt")
        return whole[len(prompt) : len(whole) - len(self.join.end)] + self.end

    def _probed(self) -> Join:
        """Tries the template out, with contents as text and, where that fails, as parts, as models that see want them."""
        failed: list[str] = []
        for self.parts in (False, True):
            try:
                return find_join(self.write, thinks=self.thinks)
            except TemplateRefusesError as error:
                failed.append(str(error))
            except UnfitTemplateError as error:
                raise self._mistake(str(error)) from None
        raise self._mistake(f"its chat template cannot write a question and its answer: {failed[0]}; give another")


def template_text(tokenizer: Any, asked: str, where: str = "model") -> str:
    """Returns the template's source: the setting's own text, the tokenizer's template of that name, or its default.

    Raises: UserError, naming the setting in ``where``, where there is none.
    """
    own: Any = getattr(tokenizer, "chat_template", None)
    named: Mapping[str, str] = own if isinstance(own, dict) else {}
    if asked and (asked in named or "{" in asked):
        return named.get(asked, asked)
    if asked:
        known = f", nor one of its own: {', '.join(sorted(named))}" if named else ""
        raise UserError(f"{where}.chat_template", asked, f"no such file, and no jinja text{known}")
    if isinstance(own, str) and own:
        return own
    if "default" in named:
        return named["default"]
    path = getattr(tokenizer, "name_or_path", "")
    if named:
        remedy = f"its tokenizer has no default chat template; name one of {', '.join(sorted(named))}"
    else:
        remedy = "its tokenizer has no chat template: give one, as text or as a file, or use an instruct model"
    raise UserError("model.path" if where == "model" else f"{where}.model", path, remedy)
