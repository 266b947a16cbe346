"""Log-probabilities of responses under a causal language model; the logits are made for response tokens only.

Where log-probs alone are wanted, ``vocabulary.py`` makes the logits a chunk of tokens at a time.

Shapes: B sequences, T padded tokens, D model width, V vocabulary, N response tokens of the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from trace_ray.model.vocabulary import chunked_log_probs, head_logits, output_head


@dataclass(frozen=True)
class SequenceBatch:
    """Right-padded sequences and where their response tokens are.

    Args:
        input_ids_BT: tokens, prompt then response then padding.
        attention_mask_BT: 1 on tokens, 0 on padding.
        sequence_N: for each response token the sequence it belongs to.
        position_N: for each response token the place of the token before it, whose hidden state predicts it.
        target_N: the response tokens themselves.
    """

    input_ids_BT: torch.Tensor
    attention_mask_BT: torch.Tensor
    sequence_N: torch.Tensor
    position_N: torch.Tensor
    target_N: torch.Tensor

    @property
    def size(self) -> int:
        return int(self.input_ids_BT.shape[0])

    def lengths_B(self) -> torch.Tensor:
        """Returns the number of response tokens of each sequence, as float."""
        ones = torch.ones_like(self.target_N, dtype=torch.float32)
        return torch.zeros(self.size, device=ones.device).index_add(0, self.sequence_N, ones)

    def to(self, device: torch.device) -> SequenceBatch:
        return SequenceBatch(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


def collate(prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], pad_id: int = 0) -> SequenceBatch:
    """Returns a batch of B sequences prompt + response, padded on the right to the longest."""
    lengths = [len(p) + len(r) for p, r in zip(prompts, responses, strict=True)]
    input_ids = torch.full((len(lengths), max(lengths)), pad_id, dtype=torch.long)
    mask = torch.zeros_like(input_ids)
    sequence, position = [], []
    for i, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        input_ids[i, : lengths[i]] = torch.tensor([*prompt, *response])
        mask[i, : lengths[i]] = 1
        sequence.append(torch.full((len(response),), i))
        position.append(torch.arange(len(prompt) - 1, lengths[i] - 1))
    sequence_N, position_N = torch.cat(sequence), torch.cat(position)
    return SequenceBatch(input_ids, mask, sequence_N, position_N, input_ids[sequence_N, position_N + 1])


def response_hidden(model: Any, batch: SequenceBatch) -> torch.Tensor:
    """Returns the hidden states that predict the response tokens, shape (N, D)."""
    hidden_BTD = text_decoder(model)(
        input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT, use_cache=False
    ).last_hidden_state
    hidden_ND: torch.Tensor = hidden_BTD[batch.sequence_N, batch.position_N]
    return hidden_ND


def response_logits(model: Any, batch: SequenceBatch) -> torch.Tensor:
    """Returns logits_NV in float32 for the response tokens alone, so that prompts and padding cost no vocabulary.

    ``model`` is a Hugging Face causal LM, with or without a PEFT adapter.
    """
    return output_logits(model, response_hidden(model, batch))


def output_logits(model: Any, hidden_ND: torch.Tensor) -> torch.Tensor:
    """Returns logits_NV in float32 of hidden states, scale and soft cap included."""
    head = output_head(causal_lm(model))
    if head is not None:
        return head_logits(hidden_ND, head)
    logits_NV: torch.Tensor = causal_lm(model).get_output_embeddings()(hidden_ND).float()
    return logits_NV


def causal_lm(model: Any) -> Any:
    """Returns the Hugging Face causal LM itself, with or without a PEFT adapter around it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def text_decoder(model: Any) -> Any:
    """Returns what turns tokens into the hidden states that the output head reads."""
    causal = causal_lm(model)
    decoder = causal.get_decoder()
    if decoder is not causal:
        return decoder
    embedding = causal.get_input_embeddings()  # Llama 4 answers with itself
    return next(child for child in causal.children() if embedding in child.modules())


def target_log_probs(logits_NV: torch.Tensor, target_N: torch.Tensor) -> torch.Tensor:
    """Returns log pi(token) in nats, shape (N,)."""
    return -torch.nn.functional.cross_entropy(logits_NV, target_N, reduction="none")


def sum_by_sequence(values_N: torch.Tensor, batch: SequenceBatch) -> torch.Tensor:
    """Returns the sum over each sequence's response tokens, shape (B,)."""
    return torch.zeros(batch.size, dtype=values_N.dtype, device=values_N.device).index_add(
        0, batch.sequence_N, values_N
    )


def response_log_probs(model: Any, batch: SequenceBatch) -> torch.Tensor:
    """Returns log pi(y|x), summed over the response's tokens, shape (B,). Memory does not grow with B x T x V.

    Differentiable in every parameter, once.
    """
    head = output_head(causal_lm(model))
    if head is None:
        return sum_by_sequence(target_log_probs(response_logits(model, batch), batch.target_N), batch)
    logp_N = chunked_log_probs(response_hidden(model, batch), head, batch.target_N)
    return sum_by_sequence(logp_N, batch)
