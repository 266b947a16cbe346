"""A prompt and one or more of its responses in one row, each response seeing the prompt and itself alone.

B rows, T padded tokens, N response tokens, S responses of the whole batch, in order of rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from trace_ray.errors import UserError
from trace_ray.model.log_probs import causal_lm, text_decoder

WINDOWS = (
    "sliding_window",
    "sliding_window_size",
    "attention_chunk_size",
    "attention_window_size",
    "window_size",
    "keep_window_size",
    "local_attention",
)
"""Settings that say over how many places a token sees, in the words of the families that have some."""


@dataclass(frozen=True)
class Packed:
    """One row: what is run through the model together.

    Args:
        prompt_ids: tokens of the prompt, run once.
        response_ids: tokens of each response.
    """

    prompt_ids: Sequence[int]
    response_ids: tuple[Sequence[int], ...]

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
        tokens: those of the rows, padding left out.
    """

    input_ids_BT: torch.Tensor
    position_ids_BT: torch.Tensor
    visible_B1TT: torch.Tensor | None
    row_N: torch.Tensor
    response_N: torch.Tensor
    position_N: torch.Tensor
    target_N: torch.Tensor
    row_S: torch.Tensor
    tokens: int

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


def pack(rows: Sequence[Packed], pad_id: int = 0) -> PackedBatch:
    """Returns the batch of the rows."""
    shape = len(rows), max(len(row) for row in rows)
    input_ids, position_ids = torch.full(shape, pad_id), torch.zeros(shape, dtype=torch.long)
    segment = torch.full(shape, -1)  # 0 = prompt, 1.. = responses, -1 = padding
    row_of, response_of, position = [], [], []
    row_S: list[int] = []
    for b, row in enumerate(rows):
        end = prompt = len(row.prompt_ids)
        input_ids[b, :prompt] = torch.tensor(list(row.prompt_ids))
        position_ids[b, :prompt] = torch.arange(prompt)
        segment[b, :prompt] = 0
        for number, ids in enumerate(row.response_ids, 1):
            start, end = end, end + len(ids)
            input_ids[b, start:end] = torch.tensor(list(ids))
            position_ids[b, start:end] = torch.arange(prompt, prompt + len(ids))
            segment[b, start:end] = number
            row_of.append(torch.full((len(ids),), b))
            response_of.append(torch.full((len(ids),), len(row_S)))
            position.append(torch.cat([torch.tensor([prompt - 1]), torch.arange(start, end - 1)])[: len(ids)])
            row_S.append(b)
    row_N, position_N = torch.cat(row_of), torch.cat(position)
    starts = torch.cat([_starts(row) for row in rows])
    target_N = input_ids[row_N, starts]
    several = any(len(row.response_ids) > 1 for row in rows)
    visible = _visible(segment) if several else None
    tokens = sum(len(row) for row in rows)
    packed = (row_N, torch.cat(response_of), position_N, target_N, torch.tensor(row_S), tokens)
    return PackedBatch(input_ids, position_ids, visible, *packed)


def _starts(row: Packed) -> torch.Tensor:
    """The places of a row's response tokens."""
    return torch.arange(len(row.prompt_ids), len(row))


def _visible(segment_BT: torch.Tensor) -> torch.Tensor:
    """Earlier tokens of the prompt and of one's own response; padding sees itself, so that no row of it is empty."""
    length = segment_BT.shape[1]
    causal_TT = torch.ones(length, length, dtype=torch.bool).tril()
    same_BTT = segment_BT[:, :, None] == segment_BT[:, None, :]
    seen_BTT = causal_TT & (same_BTT | (segment_BT == 0)[:, None, :])
    hidden = torch.finfo(torch.float32).min
    return torch.zeros(seen_BTT.shape).masked_fill(~seen_BTT, hidden)[:, None]


def hidden_states(model: Any, batch: PackedBatch) -> torch.Tensor:
    """Returns the hidden states that predict the response tokens, shape (N, D)."""
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


def refuse_unknown_tokens(rows: Sequence[Mapping[str, Any]], model: Any) -> None:
    """Raises UserError for a row with a token that the model's embedding has no row for.

    Args:
        rows: with pair_id, prompt_ids and other names that end so.
    """
    known = causal_lm(model).get_input_embeddings().weight.shape[0]
    for row in rows:
        largest = max(max(ids, default=0) for name, ids in row.items() if name.endswith("_ids") and ids)
        if largest >= known:
            remedy = f"its text holds a token that model.path has no embedding for ({known} rows): take it out"
            raise UserError(f"pair {row['pair_id']}", f"token {largest}", remedy)


def sharing_pays(prompt: int, responses: Sequence[int], model_config: Any) -> bool:
    """Returns whether one row costs less than one a response.

    It saves the prompt's runs through the linears but attends over a longer row, without the causal shortcut. Counted
    in multiplications a layer: about 12 D^2 a token for the linears, 2 T D a token for attention (half if causal).

    Args:
        prompt, responses: tokens.
        model_config: of Hugging Face.
    """
    text = model_config.get_text_config()
    width, row = text.hidden_size, prompt + sum(responses)
    if len(responses) < 2 or not sharing_fits(row, model_config):
        return False
    linears = 12 * width * width
    alone = sum((prompt + y) * (linears + (prompt + y) * width) for y in responses)
    return bool(row * (linears + 2 * row * width) < alone)


def sharing_fits(row: int, model_config: Any) -> bool:
    """Returns whether responses may stand in one row of so many tokens at all.

    A window narrower than the row rules it out, as it would be measured in places of the row, and so does an attention
    that takes no mask of ours.
    """
    text = model_config.get_text_config()
    windows = [size for name in WINDOWS if isinstance(size := getattr(text, name, None), int) and size > 0]
    return not model_config._attn_implementation.startswith("flash") and row <= min(windows, default=row)  # noqa: SLF001
