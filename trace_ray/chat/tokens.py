"""From rendered text to tokens: special tokens are those that the template writes, never what a row's text spells."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from trace_ray.chat.cut import Span, spans_of
from trace_ray.pairs import Message

_HIDDEN = "\x02S"
_SPELLED = re.compile(_HIDDEN + "([0-9]+)\x03")
"""Stands in a row's text for the special token of that number, until the template has been rendered."""


@dataclass(frozen=True)
class Encoded:
    """The tokens of a text.

    Args:
        source: what the fast tokenizer found, which knows where each token is; None of any other tokenizer.
        before: tokens put before those.
        hidden: whether the text held what ``Tokens.hidden`` puts out of sight.
    """

    ids: list[int]
    source: Any = None
    before: int = 0
    hidden: bool = False


class Tokens:
    """A tokenizer as prompts and answers need it.

    Args:
        tokenizer: of transformers.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        added = getattr(tokenizer, "added_tokens_decoder", {})
        self.special = {str(token): token for token in added.values() if token.special and len(str(token)) > 1}
        self._names = list(self.special)
        self._number = {text: number for number, text in enumerate(self._names)}
        self._first = tuple({text[0] for text in self.special})
        self._lengths = sorted({len(text) for text in self.special}, reverse=True)
        bos = tokenizer.bos_token_id
        # What the tokenizer does by itself says whether the model was trained with it, whatever a template leaves out.
        self.bos = [bos] if bos is not None and list(tokenizer("a")["input_ids"])[:1] == [bos] else []

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Returns the tokens of rendered texts, those with ``hidden`` ones included; nothing is added to them."""
        plain = [text for text in texts if _HIDDEN not in text]
        known: Iterator[Encoded] = iter(())
        if plain:
            found = self.tokenizer(plain, add_special_tokens=False, return_attention_mask=False, verbose=False)
            sources = found.encodings or [None] * len(plain)
            known = iter([Encoded(list(ids), source) for ids, source in zip(found["input_ids"], sources, strict=True)])
        return [self._encode_hidden(text) if _HIDDEN in text else next(known) for text in texts]

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """As ``encode``: the tokens alone."""
        return [encoded.ids for encoded in self.encode(texts)]

    def prompts(self, texts: Sequence[str]) -> list[Encoded]:
        """As ``encode``, with the begin-of-text token where the model wants one and the template writes none.

        Llama Guard's template writes a blank before its own.
        """
        bos = self.bos
        return [
            encoded
            if not bos or bos[0] in encoded.ids[:2]
            else replace(encoded, ids=[*bos, *encoded.ids], before=len(bos))
            for encoded in self.encode(texts)
        ]

    def spans(self, pieces: Sequence[str], found: Encoded) -> list[Span] | None:
        """Returns the tokens of every second piece (``cut.spans_of``), None where the tokenizer does not know them.

        Args:
            pieces: that make up the text whose tokens were found.
        """
        if found.source is None:
            return None
        read = [self._as_read(piece) for piece in pieces] if found.hidden else pieces
        return [(start + found.before, stop + found.before) for start, stop in spans_of(read, found.source.offsets)]

    def hidden(self, text: str) -> str:
        """Returns a row's text with what spells special tokens put out of the template's and the tokenizer's sight."""
        return self._renamed(text, _HIDDEN)

    def hidden_turns(self, turns: Sequence[Message]) -> Sequence[Message]:
        """As ``hidden``, of each turn's content."""
        texts = [self.hidden(turn["content"]) for turn in turns]
        if all(text is turn["content"] for text, turn in zip(texts, turns, strict=True)):
            return turns
        return [{**turn, "content": text} for text, turn in zip(texts, turns, strict=True)]

    def _renamed(self, text: str, kind: str) -> str:
        """The text with each special token in it called by kind and number."""
        for first in self._first:
            if first in text:
                break
        else:
            return text
        pieces, start, at = [], 0, 0
        while at < len(text):
            special = self._special_at(text, at) if text[at] in self._first else None
            if special is None:
                at += 1
                continue
            pieces += [text[start:at], f"{kind}{self._number[special]}\x03"]
            start = at = at + len(special)
        return "".join([*pieces, text[start:]]) if pieces else text

    def _special_at(self, text: str, at: int) -> str | None:
        return next((text[at : at + n] for n in self._lengths if text[at : at + n] in self.special), None)

    def _as_read(self, text: str) -> str:
        """What the twin reads: the template's special tokens by another name, those that a row spells as they are."""
        return _SPELLED.sub(lambda found: self._names[int(found[1])], self._renamed(text, "\x02T"))

    def _encode_hidden(self, text: str) -> Encoded:
        if self._twin is None:
            return Encoded(self._ids_apart(text), hidden=True)
        twin, meaning = self._twin
        found = twin.encode(self._as_read(text), add_special_tokens=False)
        return Encoded([meaning.get(i, i) for i in found.ids], found, hidden=True)

    @cached_property
    def _twin(self) -> tuple[Any, Mapping[int, Any]] | None:
        """A copy of the fast tokenizer for which special tokens are text, and what it calls them for the template's."""
        from tokenizers import AddedToken, Tokenizer

        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            return None
        twin, names = copy.deepcopy(backend), {text: f"\x02T{n}\x03" for text, n in self._number.items()}
        twin.no_truncation()
        twin.add_tokens(
            [
                AddedToken(names[text], lstrip=token.lstrip, rstrip=token.rstrip, normalized=False, special=False)
                for text, token in self.special.items()
            ]
        )
        twin.encode_special_tokens = True
        meant: dict[Any, Any] = {twin.token_to_id(name): backend.token_to_id(text) for text, name in names.items()}
        return twin, meant

    def _ids_apart(self, text: str) -> list[int]:
        """What a tokenizer without a fast backend allows: the spelled ones tokenised on their own."""
        ids: list[int] = []
        for place, piece in enumerate(_SPELLED.split(text)):
            if piece:
                words = self._names[int(piece)] if place % 2 else piece
                how = {"split_special_tokens": True} if place % 2 else {}
                ids += self.tokenizer(words, add_special_tokens=False, **how)["input_ids"]
        return ids
