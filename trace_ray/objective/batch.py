"""The micro-batch that a worker trains on: scored pairs flattened to sequences, in groups of like length.

S: sequences of the micro-batch, over all its groups.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from trace_ray.config import ObjectiveConfig, TermConfig
from trace_ray.model.packing import Packed, PackedBatch, pack
from trace_ray.model.transfer import sent
from trace_ray.objective.losses import Parameters
from trace_ray.objective.tokens import TokenPlaces, TopK

Row = Mapping[str, Any]
Flat = tuple[int, tuple[str, ...]]
"""A pair, and those of its responses that one row of the batch holds."""

FILLER = Packed([0], ([0],))
"""The row that stands in where a worker has nothing to run: all ranks must run alike."""


@dataclass(frozen=True)
class TokenTerm:
    """A loss that compares with the reference token by token, and what it reads of one group.

    Args:
        term: of the configuration; parameters: all of its loss's.
        sequences: places in the group.
    """

    term: TermConfig
    parameters: Parameters
    sequences: tuple[int, ...]


@dataclass(frozen=True)
class SequenceGroup:
    """Rows of like length, run together.

    Args:
        batch: their sequences.
        places: of the tokens that are asked for.
        token_terms: one for each of the objective's, in its order, in every group.
        anchored: the sequences that some token term reads, in order.
        reference: these again, for the reference's forward; filler where only another worker has some; None where no
            forward is needed.
        top_k, hidden_KD: stored reference distributions, or hidden states, of the anchored sequences' tokens, instead of a
            forward.
    """

    batch: PackedBatch
    places: TokenPlaces
    token_terms: tuple[TokenTerm, ...]
    anchored: tuple[int, ...]
    reference: PackedBatch | None
    top_k: TopK | None = None
    hidden_KD: torch.Tensor | None = None

    def to(self, device: torch.device) -> SequenceGroup:
        reference = self.reference.to(device) if self.reference else None
        top_k = self.top_k.to(device) if self.top_k else None
        hidden_KD = sent(self.hidden_KD, device) if self.hidden_KD is not None else None
        batch, places = self.batch.to(device), self.places.to(device)
        return replace(self, batch=batch, places=places, reference=reference, top_k=top_k, hidden_KD=hidden_KD)


@dataclass(frozen=True)
class MicroBatch:
    """Pairs flattened to sequences in groups.

    Args:
        groups: what is run.
        place: (pair, response name) -> place among the S.
        rows: the pairs.
        length_S: response tokens of each sequence.
    """

    groups: list[SequenceGroup]
    place: dict[tuple[int, str], int] = field(hash=False)
    rows: Sequence[Row]
    length_S: torch.Tensor

    def to(self, device: torch.device) -> MicroBatch:
        return replace(self, groups=[group.to(device) for group in self.groups], length_S=sent(self.length_S, device))

    def tokens(self) -> tuple[int, int, int]:
        """Returns (tokens of the sequences, tokens run, tokens run with padding) of the policy's forwards.

        A shared prompt counts once for each response among the first, and is run once. Filler is left out.
        """
        real = [g.batch for g in self.groups if not _is_filler(g.batch)]
        alone = sum(b.tokens_alone for b in real)
        return alone, sum(b.tokens for b in real), sum(b.input_ids_BT.numel() for b in real)


def micro_batch(
    rows: Sequence[Row],
    objective: ObjectiveConfig,
    groups: Sequence[Sequence[int]] | None = None,
    anchored: Sequence[bool] | None = None,
    *,
    shared: Sequence[bool] | None = None,
    flat: bool = False,
    forward_reference: bool = True,
    pad_id: int = 0,
) -> MicroBatch:
    """Returns the micro-batch of scored rows (tokens, reference log-probs, category, weight).

    Args:
        groups, anchored: as ``layout.plan_step`` made them for these rows; None = one group.
        shared: which pairs' responses share their prompt, none of them anchored; None = none.
        flat: whether the rows of a group lie one after the other instead of padded.
        forward_reference: whether the reference is a forward; else rows hold ``top_k_ids`` and ``top_k_log_probs``, or
            ``reference_hidden``.
    """
    runs: list[Flat] = []
    for i, row in enumerate(rows):
        names = objective.sequences(row["category"])
        runs += [(i, names)] if shared is not None and shared[i] else [(i, (name,)) for name in names]
    groups = [list(range(len(runs)))] if groups is None else groups
    compared = {name: objective.compared(name) for name in dict.fromkeys(row["category"] for row in rows)}
    anchored = [any(compared.values())] if anchored is None else anchored
    made: list[SequenceGroup] = []
    place: dict[tuple[int, str], int] = {}
    sequences = 0
    for members, reference in zip(groups, anchored, strict=True):
        held = [runs[s] for s in members]
        packed = partial(pack, pad_id=pad_id, flat=flat)
        group = _group(rows, held, objective, packed, forward=forward_reference, run_reference=reference)
        keys = [(i, name) for i, names in held for name in names]
        place |= {key: sequences + at for at, key in enumerate(keys)}
        sequences += group.batch.responses
        made.append(group)
    return MicroBatch(made, place, rows, torch.cat([group.batch.length_S for group in made]))


def _group(
    rows: Sequence[Row],
    held: Sequence[Flat],
    objective: ObjectiveConfig,
    packed: Callable[[Sequence[Packed]], PackedBatch],
    *,
    forward: bool,
    run_reference: bool,
) -> SequenceGroup:
    """One group of the rows that ``held`` names; ``forward``: whether the reference is one at all."""
    keys = [(i, name) for i, names in held for name in names]
    kinds = [(rows[i]["category"], name) for i, name in keys]
    scored, compared = (
        {of: takes(of) for of in {of for of, _ in kinds}} for takes in (objective.scored, objective.compared)
    )
    anchors = tuple(at for at, (of, name) in enumerate(kinds) if name in compared[of])
    again = [_packed(rows[i], (name,)) for i, name in (keys[at] for at in anchors)]
    batch, terms = packed([_packed(rows[i], names) for i, names in held] or [FILLER]), _token_terms(kinds, objective)
    asked = [at for at, (of, name) in enumerate(kinds) if name in scored[of]]
    return SequenceGroup(
        batch=batch,
        places=TokenPlaces.of(batch.response_N, asked, [term.sequences for term in terms], anchors),
        token_terms=terms,
        anchored=anchors,
        reference=packed(again or [FILLER]) if run_reference and forward else None,
        **({} if forward or not anchors else _stored([rows[keys[at][0]] for at in anchors])),
    )


def _token_terms(kinds: Sequence[tuple[str, str]], objective: ObjectiveConfig) -> tuple[TokenTerm, ...]:
    """What each of the objective's token terms reads of a group, whose sequences are of (category, response name)."""
    return tuple(
        TokenTerm(
            term,
            objective.parameters(term),
            tuple(at for at, (category, name) in enumerate(kinds) if category == of and name in term.responses),
        )
        for of, term in objective.token_terms()
    )


def _packed(row: Row, names: Sequence[str]) -> Packed:
    return Packed(row["prompt_ids"], tuple(row[f"{name}_ids"] for name in names))


def _is_filler(batch: PackedBatch) -> bool:
    return batch.input_ids_BT.shape == (1, 2)


def _stored(rows: Sequence[Row]) -> dict[str, Any]:
    """What is stored of the reference for these rows, as a ``SequenceGroup`` holds it."""
    if "reference_hidden" in rows[0]:
        return {"hidden_KD": torch.cat([_hidden(row) for row in rows])}
    ids = torch.cat([torch.as_tensor(row["top_k_ids"]) for row in rows])
    log_probs = torch.cat([torch.as_tensor(row["top_k_log_probs"]) for row in rows])
    return {"top_k": TopK(ids.long(), log_probs.float())}


def _hidden(row: Row) -> torch.Tensor:
    held = torch.tensor(row["reference_hidden"])  # a copy: what is mapped cannot be written to
    return held.view(getattr(torch, row["dtype"])).view(-1, row["width"])
