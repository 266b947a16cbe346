"""The two tiny models' tokenizer, shape and training loop; ``build.py`` says on what they are trained."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import DynamicCache, GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

BOS, EOS, PAD, START = "<|bos|>", "<|im_end|>", "<|pad|>", "<|im_start|>"
IGNORED = -100
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

Example = tuple[str, str]
"""A user turn and the assistant's answer; the loss sees the answer and the end-of-turn token only."""


def train_tokenizer(sentences: Sequence[str], parts: Sequence[str], places: Sequence[str]) -> PreTrainedTokenizerFast:
    """Returns a byte-level BPE tokenizer in which every word of ``sentences`` is short and no place is one token.

    A place seen once yields merges for its two halves (``parts``), which other places share, but none of the halves
    with each other: so a held-out place has no embedding of its own that training never touched.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        min_frequency=2,
        special_tokens=[PAD, BOS, EOS, START],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*sentences, *sentences, *(f" {place}" for place in places), *parts, *parts], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=[START],
        chat_template=CHAT_TEMPLATE,
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )


def new_model(tokenizer: PreTrainedTokenizerFast, *, layers: int, seed: int) -> LlamaForCausalLM:
    """Returns an untrained Llama of hidden size 128. Heads are 32 wide, the least that vLLM's CPU attention takes."""
    torch.manual_seed(seed)
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        **special,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(do_sample=False, max_new_tokens=64, **special)
    return model


def user_turn(tokenizer: PreTrainedTokenizerFast, content: str) -> str:
    """Returns the rendered prompt, up to and with the assistant's header."""
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    return str(rendered)


def fit(
    model: LlamaForCausalLM, loss_of: Callable[[random.Random], torch.Tensor], *, steps: int, lr: float, seed: int
) -> Iterator[tuple[int, float]]:
    """Trains with AdamW, warm-up of 5 % then cosine to 0; yields (step, loss) after each step.

    ``loss_of`` draws fresh examples and returns their mean loss, a scalar with a graph.
    """
    rng = random.Random(seed)  # noqa: S311 - no secret
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01, betas=(0.9, 0.98))
    warmup = max(1, steps // 20)
    model.train()
    for step in range(steps):
        progress = max(0.0, (step - warmup) / max(1, steps - warmup))
        scale = min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * progress))
        for group in optimizer.param_groups:
            group["lr"] = lr * scale
        loss = loss_of(rng)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        yield step, float(loss.detach())
    model.eval()


def answer_loss(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, examples: Sequence[Example]
) -> torch.Tensor:
    """Returns the mean cross-entropy over the tokens of all answers and their end-of-turn tokens."""
    ids_BT, labels_BT = collate(tokenizer, examples)
    loss: torch.Tensor = model(input_ids=ids_BT, labels=labels_BT).loss
    return loss


def verdict_loss(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prefix: str, examples: Sequence[Example]
) -> torch.Tensor:
    """Returns the mean cross-entropy of one-token answers, reading the prefix that all prompts share only once.

    The shared policy is two thirds of a judge prompt; gradients flow through its cached keys and values.

    Raises:
        ValueError: a prompt does not begin with the prefix, token for token.
    """
    prefix_T = tokenizer(prefix, add_special_tokens=False).input_ids
    rows = [tokenizer(user_turn(tokenizer, user), add_special_tokens=False).input_ids for user, _ in examples]
    if any(row[: len(prefix_T)] != prefix_T for row in rows):
        raise ValueError("the examples do not share the prefix")
    cache = DynamicCache()
    model.model(input_ids=torch.tensor([prefix_T]), past_key_values=cache)
    cache.batch_repeat_interleave(len(rows))
    ends_B = torch.tensor([len(row) - len(prefix_T) - 1 for row in rows])
    ids_BT = torch.full((len(rows), int(ends_B.max()) + 1), int(tokenizer.convert_tokens_to_ids(PAD)))
    for ids_T, row in zip(ids_BT, rows, strict=True):
        ids_T[: len(row) - len(prefix_T)] = torch.tensor(row[len(prefix_T) :])
    hidden_BTH = model.model(input_ids=ids_BT, past_key_values=cache).last_hidden_state
    logits_BV = model.lm_head(hidden_BTH[torch.arange(len(rows)), ends_B])
    answers_B = torch.tensor([int(tokenizer.convert_tokens_to_ids(answer)) for _, answer in examples])
    return torch.nn.functional.cross_entropy(logits_BV, answers_B)


def collate(tokenizer: PreTrainedTokenizerFast, examples: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns ids and labels (batch, longest), padded on the right, where no causal position looks."""
    prompts = [tokenizer(user_turn(tokenizer, user), add_special_tokens=False).input_ids for user, _ in examples]
    answers = [tokenizer(answer + EOS, add_special_tokens=False).input_ids for _, answer in examples]
    longest = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
    ids_BT = torch.full((len(examples), longest), int(tokenizer.convert_tokens_to_ids(PAD)))
    labels_BT = torch.full((len(examples), longest), IGNORED)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        end = len(prompt) + len(answer)
        ids_BT[row, :end] = torch.tensor(prompt + answer)
        labels_BT[row, len(prompt) : end] = torch.tensor(answer)
    return ids_BT, labels_BT
