"""Attention over sequences that lie one after the other in a single row of tokens: no padding and no mask.

A prompt's keys and values are read by each of its responses, so that a response sees its prompt and itself: the keys of
a sequence are gathered, its queries are its last ones, and the causal kernels for sequences of unlike lengths do the rest.
transformers' attention interface calls ``flat_attention`` for models that ``model.flat`` has chosen.

T tokens of the row, J gathered keys, H heads, D their width, U the most sequences that one token's keys are read by.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch

from trace_ray.model.transfer import sent

FLAT = "trace_ray_flat"
"""Its name among transformers' attentions."""

_UNKNOWN = ("softcap", "s_aux", "position_bias", "cache")
"""What some families ask of their attention and this one does not do."""
_WIDEST = 256
"""Width of a head up to which there are kernels."""


@dataclass(frozen=True)
class Layout:
    """Where the sequences of a flat row stand.

    Args:
        row_lengths_B: tokens of each prompt with its responses.
        starts_q, starts_k: first query and first gathered key of each sequence, and their ends, int32.
        longest_q, longest_k: tokens of the longest.
        key_J: place of each gathered key in the row; None where that is the row itself.
        readers_TU: places among the J at which each token's key stands, J itself where there are fewer than U.
        bounds: the same starts as numbers: (first query, its end, first key, its end) of each sequence.
    """

    row_lengths_B: torch.Tensor
    starts_q: torch.Tensor
    starts_k: torch.Tensor
    longest_q: int
    longest_k: int
    key_J: torch.Tensor | None
    readers_TU: torch.Tensor | None
    bounds: tuple[tuple[int, int, int, int], ...]

    @classmethod
    def of(cls, rows: Sequence[tuple[int, Sequence[int]]]) -> Layout:
        """Returns the layout of rows: tokens of each prompt, and of each of its responses.

        A row of one response is one sequence.
        """
        sequences: list[tuple[int, int, list[range]]] = []
        at = 0
        for prompt, responses in rows:
            if len(responses) == 1:
                stop = at + prompt + responses[0]
                sequences.append((at, stop, [range(at, stop)]))
                at = stop
                continue
            first = range(at, at + prompt)
            sequences.append((at, first.stop, [first]))
            at = first.stop
            for length in responses:
                sequences.append((at, at + length, [first, range(at, at + length)]))
                at += length
        return cls._of(rows, sequences, at)

    @classmethod
    def _of(cls, rows: Any, sequences: list[tuple[int, int, list[range]]], tokens: int) -> Layout:
        key_J = torch.cat([torch.arange(r.start, r.stop) for _, _, read in sequences for r in read])
        ends_k = torch.tensor([sum(map(len, read)) for _, _, read in sequences]).cumsum(0).tolist()
        starts_q, starts_k = [0, *(stop for _, stop, _ in sequences)], [0, *ends_k]
        bounds = tuple(zip(starts_q, starts_q[1:], starts_k, starts_k[1:], strict=False))
        gathered = len(key_J) > tokens
        return cls(
            row_lengths_B=torch.tensor([prompt + sum(responses) for prompt, responses in rows]),
            starts_q=torch.tensor(starts_q, dtype=torch.int32),
            starts_k=torch.tensor(starts_k, dtype=torch.int32),
            longest_q=max(stop - start for start, stop, _, _ in bounds),
            longest_k=max(stop - start for _, _, start, stop in bounds),
            key_J=key_J if gathered else None,
            readers_TU=_readers(key_J, tokens) if gathered else None,
            bounds=bounds,
        )

    def to(self, device: torch.device) -> Layout:
        fields: dict[str, Any] = {n: sent(v, device) for n, v in vars(self).items() if isinstance(v, torch.Tensor)}
        return replace(self, **fields)

    def by_row(self, values_T: torch.Tensor) -> torch.Tensor:
        """Returns the sum over each row's tokens, shape (B,); the same whenever it is asked."""
        return torch.segment_reduce(values_T, "sum", lengths=self.row_lengths_B, unsafe=True)


def _readers(key_J: torch.Tensor, tokens: int) -> torch.Tensor:
    order = key_J.argsort(stable=True)
    counts_T = torch.bincount(key_J, minlength=tokens)
    first_T = counts_T.cumsum(0) - counts_T
    readers_TU = torch.full((tokens, int(counts_T.max())), len(key_J))
    sorted_J = key_J[order]
    readers_TU[sorted_J, torch.arange(len(key_J)) - first_T[sorted_J]] = order
    return readers_TU


class _Gathered(torch.autograd.Function):
    """Keys or values at the places where they are read; their gradients are added in one order, in float32."""

    @staticmethod
    def forward(ctx: Any, values_THD: torch.Tensor, key_J: torch.Tensor, readers_TU: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(readers_TU)
        return values_THD.index_select(0, key_J)

    @staticmethod
    def backward(ctx: Any, *above: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (readers_TU,) = ctx.saved_tensors
        above_JHD = torch.cat([above[0], torch.zeros_like(above[0][:1])])
        first, *others = (above_JHD.index_select(0, places_T) for places_T in readers_TU.unbind(1))
        total = first.float()
        for other in others:
            total += other
        return total.to(first.dtype), None, None


def flat_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    layout: Layout | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Returns attention's output, shape (1, T, H, D), as transformers calls it; without a layout what sdpa would return.

    Args:
        query, key, value: shape (1, heads, T, D).
        layout: of the row.
    Raises: ValueError for what it does not do.
    """
    if layout is None:
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        sdpa: Any = ALL_ATTENTION_FUNCTIONS["sdpa"]
        asked = kwargs | {"dropout": dropout, "scaling": scaling, "sliding_window": sliding_window}
        told: tuple[torch.Tensor, None] = sdpa(module, query, key, value, attention_mask, **asked)
        return told
    unknown = [name for name in _UNKNOWN if kwargs.get(name) is not None]
    if unknown or dropout or getattr(module, "is_causal", True) is not True:
        raise ValueError(f"not done for flat rows: {', '.join(unknown) or 'dropout, or attention that is not causal'}")
    query_THD, key_THD, value_THD = (states[0].transpose(0, 1) for states in (query, key, value))
    if layout.key_J is not None:
        gathered: Any = _Gathered.apply
        key_THD, value_THD = (gathered(states, layout.key_J, layout.readers_TU) for states in (key_THD, value_THD))
    run = _varlen if has_kernel(query, value) else _one_by_one
    return run(query_THD, key_THD, value_THD, layout, scaling, sliding_window or 0)[None], None


def has_kernel(query: torch.Tensor, value: torch.Tensor) -> bool:
    """Whether torch has a kernel for sequences of unlike lengths there."""
    narrow = query.dtype in (torch.bfloat16, torch.float16)
    return query.is_cuda and narrow and query.shape[-1] == value.shape[-1] <= _WIDEST and query.shape[-1] % 8 == 0


@cache
def _grouped_heads() -> dict[str, Any]:
    """What newer versions of torch want to be told where several heads share their keys."""
    from torch.nn.attention.varlen import varlen_attn

    return {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}


def _varlen(
    query_THD: torch.Tensor,
    key_JHD: torch.Tensor,
    value_JHD: torch.Tensor,
    layout: Layout,
    scale: float | None,
    window: int,
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    found: Any = varlen_attn(
        query_THD,
        key_JHD,
        value_JHD,
        layout.starts_q,
        layout.starts_k,
        layout.longest_q,
        layout.longest_k,
        scale=scale,
        window_size=(window - 1 if window else -1, 0),
        **_grouped_heads(),
    )
    return found  # type: ignore[no-any-return]


def _one_by_one(
    query_THD: torch.Tensor,
    key_JHD: torch.Tensor,
    value_JHD: torch.Tensor,
    layout: Layout,
    scale: float | None,
    window: int,
) -> torch.Tensor:
    """The same without a kernel: one call of sdpa a sequence."""
    parts = []
    for first_q, end_q, first_k, end_k in layout.bounds:
        query, key, value = (
            states[start:stop].transpose(0, 1)[None]
            for states, start, stop in (
                (query_THD, first_q, end_q),
                (key_JHD, first_k, end_k),
                (value_JHD, first_k, end_k),
            )
        )
        plain = not window and query.shape[2] == key.shape[2]
        mask = None if plain else _seen(query.shape[2], key.shape[2], window, query.device)
        part = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=plain, scale=scale, enable_gqa=query.shape[1] != key.shape[1]
        )
        parts.append(part[0].transpose(0, 1))
    return torch.cat(parts)


def _seen(queries: int, keys: int, window: int, device: torch.device) -> torch.Tensor:
    """Whether a query (row) sees a key (column): the queries are the last of the keys."""
    place = torch.arange(keys - queries, keys, device=device)[:, None]
    other = torch.arange(keys, device=device)[None, :]
    seen = other <= place
    return seen & (other > place - window) if window else seen


def register() -> None:
    """Makes ``FLAT`` known to transformers."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(FLAT, flat_attention)
    AttentionMaskInterface.register(FLAT, sdpa_mask)
