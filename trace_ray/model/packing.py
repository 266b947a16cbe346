"""The one batch that the policy model runs: rows of a prompt and one or more of its responses.

Each response sees the prompt and itself alone, so that it gets what it would get in a row of its own. Scoring, training,
drift and stored reference distributions all run these rows.

B rows, T padded tokens, N response tokens, S responses of the whole batch, in order of rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch

from trace_ray.model.decoder import text_decoder

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
    """Right-padded rows.

    Args:
        input_ids_BT: prompt, responses one after the other, padding.
        position_ids_BT: each response goes on from its prompt.
        visible_B1TT: 0 where a token (third axis) sees another (fourth), a large negative number elsewhere; None where
            every row has one response: plain causal attention is then the same, as padding stands last.
        row_N, response_N: row and response (0..S-1) of each response token.
        position_N: place of the token before it in the same response or prompt, whose hidden state predicts it.
        target_N: the response tokens.
        row_S: row of each response.
        length_S: tokens of each response, as float32.
        tokens: those of the rows, padding left out; tokens_alone: what they would be in rows of one response.
    """

    input_ids_BT: torch.Tensor
    position_ids_BT: torch.Tensor
    visible_B1TT: torch.Tensor | None
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
        return int(self.input_ids_BT.shape[0])

    @property
    def responses(self) -> int:
        return int(self.row_S.shape[0])

    def to(self, device: torch.device) -> PackedBatch:
        fields: dict[str, Any] = {n: getattr(self, n) for n in self.__dataclass_fields__}
        fields |= {n: v.to(device) for n, v in fields.items() if isinstance(v, torch.Tensor)}
        return replace(self, **fields)

    def by_response(self, values_N: torch.Tensor) -> torch.Tensor:
        """Returns the sum over each response's tokens, shape (S,)."""
        return values_N.new_zeros(self.responses).index_add(0, self.response_N, values_N)


def pack(rows: Sequence[Packed], pad_id: int = 0) -> PackedBatch:
    """Returns the batch of the rows."""
    shape = len(rows), max(len(row) for row in rows)
    input_ids, position_ids = torch.full(shape, pad_id), torch.zeros(shape, dtype=torch.long)
    segment = torch.full(shape, -1)  # 0 = prompt, 1.. = responses, -1 = padding
    row_of, response_of, position = [], [], []
    row_S: list[int] = []
    for b, row in enumerate(rows):
        end = prompt = len(row.prompt_ids)
        input_ids[b, : len(row)] = torch.tensor(list(chain(row.prompt_ids, *row.response_ids)))
        position_ids[b, :prompt] = torch.arange(prompt)
        segment[b, :prompt] = 0
        for number, ids in enumerate(row.response_ids, 1):
            start, end = end, end + len(ids)
            position_ids[b, start:end] = torch.arange(prompt, prompt + len(ids))
            segment[b, start:end] = number
            row_of.append(torch.full((len(ids),), b))
            response_of.append(torch.full((len(ids),), len(row_S)))
            position.append(torch.cat([torch.tensor([prompt - 1]), torch.arange(start, end - 1)])[: len(ids)])
            row_S.append(b)
    row_N, places = torch.cat(row_of), [torch.arange(len(row.prompt_ids), len(row)) for row in rows]
    return PackedBatch(
        input_ids_BT=input_ids,
        position_ids_BT=position_ids,
        visible_B1TT=_visible(segment) if any(len(row.response_ids) > 1 for row in rows) else None,
        row_N=row_N,
        response_N=torch.cat(response_of),
        position_N=torch.cat(position),
        target_N=input_ids[row_N, torch.cat(places)],
        row_S=torch.tensor(row_S),
        length_S=torch.tensor([float(len(ids)) for row in rows for ids in row.response_ids]),
        tokens=sum(len(row) for row in rows),
        tokens_alone=sum(len(row.prompt_ids) + len(ids) for row in rows for ids in row.response_ids),
    )


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
    if visible is not None:
        dtype = next(decoder.parameters()).dtype
        visible = visible.clamp(min=max(torch.finfo(dtype).min, torch.finfo(torch.float32).min)).to(dtype)
        places = {"position_ids": batch.position_ids_BT}
    hidden_BTD = decoder(
        input_ids=batch.input_ids_BT, attention_mask=visible, use_cache=False, **places
    ).last_hidden_state
    return hidden_BTD[batch.row_N, batch.position_N]  # type: ignore[no-any-return]
