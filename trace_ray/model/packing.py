"""The one batch that the policy model runs: rows of a prompt and one or more of its responses.

Each response sees the prompt and itself alone, so that it gets what it would get in a row of its own. Scoring, training,
drift and stored reference distributions all run these rows.

Rows are padded to the longest, or flat: one after the other in a single row of tokens, for models that ``model.flat`` has
chosen. B rows, T padded tokens of each or all tokens of the flat one, N response tokens, S responses of the whole batch, in
order of rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain
from typing import Any

import torch

from trace_ray.model.attention import Layout
from trace_ray.model.decoder import text_decoder
from trace_ray.model.transfer import sent

Tokens = Sequence[int]


@dataclass(frozen=True)
class Packed:
    """One row: what is run through the model together.

    Args:
        prompt_ids: tokens of the prompt, run once.
        response_ids: tokens of each response.
    """

    prompt_ids: Tokens
    response_ids: tuple[Tokens, ...]

    def __len__(self) -> int:
        return len(self.prompt_ids) + sum(len(ids) for ids in self.response_ids)


@dataclass(frozen=True)
class PackedBatch:
    """Right-padded rows, or flat ones.

    Args:
        input_ids_BT: prompt, responses one after the other, padding; shape (1, T) where rows are flat.
        position_ids_BT: each response goes on from its prompt.
        visible_B1TT: 0 where a token (third axis) sees another (fourth), a large negative number elsewhere; None where
            every row has one response: plain causal attention is then the same, as padding stands last.
        layout: of flat rows, else None.
        row_N, response_N: row and response (0..S-1) of each response token.
        position_N: place of the token before it in the same response or prompt, whose hidden state predicts it; counted
            through all rows where they are flat.
        target_N: the response tokens.
        row_S: row of each response.
        length_S: tokens of each response, as float32.
        tokens: those of the rows, padding left out; tokens_alone: what they would be in rows of one response.
    """

    input_ids_BT: torch.Tensor
    position_ids_BT: torch.Tensor
    visible_B1TT: torch.Tensor | None
    layout: Layout | None
    row_N: torch.Tensor
    response_N: torch.Tensor
    position_N: torch.Tensor
    target_N: torch.Tensor
    row_S: torch.Tensor
    length_S: torch.Tensor
    tokens: int
    tokens_alone: int

    @property
    def rows(self) -> int:
        return int(self.input_ids_BT.shape[0]) if self.layout is None else len(self.layout.row_lengths_B)

    @property
    def responses(self) -> int:
        return int(self.row_S.shape[0])

    def to(self, device: torch.device) -> PackedBatch:
        fields: dict[str, Any] = {n: getattr(self, n) for n in self.__dataclass_fields__}
        fields |= {n: sent(v, device) for n, v in fields.items() if isinstance(v, torch.Tensor)}
        fields["layout"] = self.layout and self.layout.to(device)
        return replace(self, **fields)

    def by_response(self, values_N: torch.Tensor) -> torch.Tensor:
        """Returns the sum over each response's tokens, shape (S,)."""
        return values_N.new_zeros(self.responses).index_add(0, self.response_N, values_N)


def pack(rows: Sequence[Packed], pad_id: int = 0, *, flat: bool = False) -> PackedBatch:
    """Returns the batch of the rows, flat or padded."""
    longest = max(len(row) for row in rows)
    starts = list(accumulate((len(row) for row in rows), initial=0)) if flat else [0] * len(rows)
    places = [_Places.of(row) for row in rows]
    row_N = torch.cat([torch.full((len(row) - len(row.prompt_ids),), b) for b, row in enumerate(rows)])
    answer_N = torch.cat(
        [torch.arange(len(row.prompt_ids), len(row)) + at for row, at in zip(rows, starts, strict=False)]
    )
    tokens = [torch.tensor(list(chain(row.prompt_ids, *row.response_ids))) for row in rows]
    lengths = [(len(row.prompt_ids), [len(ids) for ids in row.response_ids]) for row in rows]
    if flat:
        input_ids, position_ids = (torch.cat(each)[None] for each in (tokens, [p.position_T for p in places]))
        segment, target_N = None, input_ids[0, answer_N]
    else:
        input_ids = _padded(tokens, longest, pad_id)
        position_ids, segment = (_padded([getattr(p, n) for p in places], longest, f) for n, f in _PADDING)
        target_N = input_ids[row_N, answer_N]
    sizes = [n for _, responses in lengths for n in responses]
    return PackedBatch(
        input_ids_BT=input_ids,
        position_ids_BT=position_ids,
        visible_B1TT=_visible(segment)
        if segment is not None and any(len(row.response_ids) > 1 for row in rows)
        else None,
        layout=Layout.of(lengths) if flat else None,
        row_N=row_N,
        response_N=torch.repeat_interleave(torch.tensor(sizes)),
        position_N=torch.cat([place.before_N + at for place, at in zip(places, starts, strict=False)]),
        target_N=target_N,
        row_S=torch.repeat_interleave(torch.tensor([len(responses) for _, responses in lengths])),
        length_S=torch.tensor([float(n) for n in sizes]),
        tokens=sum(len(row) for row in rows),
        tokens_alone=sum(prompt * len(responses) + sum(responses) for prompt, responses in lengths),
    )


@dataclass(frozen=True)
class _Places:
    """Of one row.

    Args:
        position_T: of its tokens, each response going on from the prompt; segment_T: 0 = prompt, 1.. = responses.
        before_N: place of the token before each response token.
    """

    position_T: torch.Tensor
    segment_T: torch.Tensor
    before_N: torch.Tensor

    @classmethod
    def of(cls, row: Packed) -> _Places:
        end = prompt = len(row.prompt_ids)
        position, segment, before = [torch.arange(prompt)], [torch.zeros(prompt, dtype=torch.long)], []
        for number, ids in enumerate(row.response_ids, 1):
            start, end = end, end + len(ids)
            position.append(torch.arange(prompt, prompt + len(ids)))
            segment.append(torch.full((len(ids),), number))
            before.append(torch.cat([torch.tensor([prompt - 1]), torch.arange(start, end - 1)])[: len(ids)])
        return cls(torch.cat(position), torch.cat(segment), torch.cat(before))


_PADDING = (("position_T", 0), ("segment_T", -1))
"""What stands behind a row."""


def _padded(rows: Sequence[torch.Tensor], longest: int, filling: int) -> torch.Tensor:
    padded_BT = torch.full((len(rows), longest), filling)
    for b, row in enumerate(rows):
        padded_BT[b, : len(row)] = row
    return padded_BT


def pack_each(sequences: Iterable[tuple[Tokens, Tokens]], pad_id: int = 0) -> PackedBatch:
    """Returns the batch of (prompt, response) in rows of their own."""
    return pack([Packed(prompt, (response,)) for prompt, response in sequences], pad_id)


def _visible(segment_BT: torch.Tensor) -> torch.Tensor:
    """Earlier tokens of the prompt and of one's own response; padding sees itself, so that no row of it is empty."""
    length = segment_BT.shape[1]
    causal_TT = torch.ones(length, length, dtype=torch.bool).tril()
    same_BTT = segment_BT[:, :, None] == segment_BT[:, None, :]
    seen_BTT = causal_TT & (same_BTT | (segment_BT == 0)[:, None, :])
    hidden = torch.finfo(torch.float32).min
    return torch.zeros(seen_BTT.shape).masked_fill(~seen_BTT, hidden)[:, None]


def hidden_states(model: Any, batch: PackedBatch) -> torch.Tensor:
    """Returns the hidden states that predict the response tokens, shape (N, D).

    Args:
        model: a Hugging Face causal LM, with or without a PEFT adapter.
    """
    decoder = text_decoder(model)
    visible, places = batch.visible_B1TT, {}
    if batch.layout is not None:
        seen = batch.input_ids_BT.new_zeros(1, 1, 1, 1, dtype=torch.float32)  # a mask of four axes is taken as it is
        more: dict[str, Any] = {"position_ids": batch.position_ids_BT, "layout": batch.layout, "use_cache": False}
        hidden_TD = decoder(input_ids=batch.input_ids_BT, attention_mask=seen, **more).last_hidden_state[0]
        return hidden_TD[batch.position_N]  # type: ignore[no-any-return]
    if visible is not None:
        dtype = next(decoder.parameters()).dtype
        visible = visible.clamp(min=max(torch.finfo(dtype).min, torch.finfo(torch.float32).min)).to(dtype)
        places = {"position_ids": batch.position_ids_BT}
    hidden_BTD = decoder(
        input_ids=batch.input_ids_BT, attention_mask=visible, use_cache=False, **places
    ).last_hidden_state
    return hidden_BTD[batch.row_N, batch.position_N]  # type: ignore[no-any-return]
