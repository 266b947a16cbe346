"""A sample of the corpus in figures, and how many rows there are: read as triage reads, tokenised as training does."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from trace_ray.config import Config
from trace_ray.corpus.files import count_rows
from trace_ray.corpus.read import Chunk, Source, read_sources
from trace_ray.errors import UserError
from trace_ray.judges import rules
from trace_ray.judges.prompt import judge_instruction, judged_text
from trace_ray.models import load_chat_tokenizer, load_tokenizer
from trace_ray.pairs import RESPONSE_NAMES, Category, Split, prompt_text
from trace_ray.plan.workload import SampledPair
from trace_ray.triage.verdict import categorise

_ALL_BYTES = 1 << 40
COUNTED_FILES = 16


@dataclass(frozen=True)
class Sample:
    """What was read.

    Args:
        pairs: the sampled pairs in figures.
        rows: of the whole corpus; refused_share: of the sampled rows.
        table: the sampled pairs (PAIR_SCHEMA columns and, where rules decide, category and corrected).
    """

    pairs: list[SampledPair]
    rows: int
    refused_share: float
    table: pa.Table


def read_sample(sources: Sequence[Source], config: Config) -> Sample:
    """Returns the first rows of evenly chosen files, training and held-out files apart.

    Raises: UserError where none of the sampled rows is a pair.
    """
    limit = config.corpus.limit
    kinds = [[s for s in sources if s.split != Split.TEST], [s for s in sources if s.split == Split.TEST]]
    tables, stands_for, rows, read = [], [], 0, 0
    for files, most in zip(kinds, (limit, 0), strict=True):
        found = list(_chunks(files, config, most)) if files else []
        there = min(corpus_rows(files), most or corpus_rows(files)) if files else 0
        seen = sum(chunk.pairs.num_rows + chunk.rejects.num_rows for chunk in found)
        pairs = [chunk.pairs for chunk in found]
        tables += pairs
        stands_for += [there / max(1, seen)] * sum(table.num_rows for table in pairs)
        rows, read = rows + there, read + seen
    if not stands_for:
        raise UserError("corpus.paths", list(config.corpus.paths), "none of the sampled rows is a preference pair")
    table = pa.concat_tables(tables)
    if any(clause.rule is not None for clause in config.policy.clauses):
        table = decided_by_rules(table, config)
    return Sample(_in_figures(table, stands_for, config), rows, 1 - table.num_rows / read, table)


def decided_by_rules(pairs: pa.Table, config: Config) -> pa.Table:
    """Returns the pairs with ``category`` and ``corrected`` as the policy's rules have them."""
    policy = config.policy
    requests = pa.array([prompt_text(prompt) for prompt in pairs["prompt"].to_pylist()], pa.string())
    complies = [
        [not bit for bit in rules.violates(policy, requests, pairs[name].combine_chunks()).to_pylist()]
        for name in ("chosen", "rejected")
    ]
    categories = [categorise(*bits).value for bits in zip(*complies, strict=True)]
    limit = rules.word_limit(policy) if config.triage.correct else 0
    corrected = [
        rules.cut_to_words(text, limit) if limit and category == Category.PUNISH else None
        for text, category in zip(pairs["chosen"].to_pylist(), categories, strict=True)
    ]
    columns = (("category", categories), ("corrected", corrected))
    for name, values in columns:
        pairs = pairs.append_column(name, pa.array(values, pa.string()))
    return pairs


def _chunks(sources: Sequence[Source], config: Config, limit: int) -> Iterator[Chunk]:
    rows = config.plan.sample_rows
    files = sources[:: max(1, len(sources) // COUNTED_FILES)][:COUNTED_FILES]
    for source in files:
        share = -(-rows // len(files))
        capped = min(share, limit) if limit else share
        yield from read_sources([source], config.corpus, capped, _ALL_BYTES)


def corpus_rows(sources: Sequence[Source]) -> int:
    """Returns the rows of files; those after the first COUNTED_FILES are judged by their bytes."""
    counted = sum(count_rows(source.place) for source in sources[:COUNTED_FILES])
    sizes: list[int] = [source.place.fs.get_file_info(source.place.path).size for source in sources]
    return round(counted * sum(sizes) / max(1, sum(sizes[:COUNTED_FILES])))


def _in_figures(table: pa.Table, stands_for: Sequence[float], config: Config) -> list[SampledPair]:
    tokenizer = load_chat_tokenizer(config.model)
    rows = table.to_pylist()
    responses = [{name: row[name] for name in RESPONSE_NAMES if row.get(name) is not None} for row in rows]
    rendered = tokenizer.pairs([row["prompt"] for row in rows], responses)
    prompts = [(row["split"], json.dumps(row["prompt"])) for row in rows]  # held out is held out, trained on or not
    first = {prompt: i for i, prompt in reversed(list(enumerate(prompts)))}
    repeated = [first[prompt] != i for i, prompt in enumerate(prompts)]
    figures = zip(rows, stands_for, rendered, repeated, _judged_tokens(table, config), strict=True)
    return [
        SampledPair(
            stands_for=number,
            category=row.get("category"),
            test=row["split"] == Split.TEST,
            repeated=again,
            prompt=len(one.prompt_ids),
            responses={name: len(ids) for name, ids in one.response_ids.items()},
            judged=tokens,
        )
        for row, number, one, again, tokens in figures
    ]


def _judged_tokens(pairs: pa.Table, config: Config) -> list[int]:
    judge = config.triage.judge
    if judge.backend == "rules":
        return [0] * pairs.num_rows
    # Nobody here has an endpoint's tokenizer: its tokens are counted as the policy model's.
    own = judge.backend == "vllm"
    model = config.model
    tokenizer = (
        load_tokenizer(judge.model, judge.revision, judge.trusted)
        if own
        else load_tokenizer(model.path, model.revision, model.trusted)
    )
    head = len(tokenizer(judge_instruction(config.policy))["input_ids"])
    requests = [prompt_text(prompt) for prompt in pairs["prompt"].to_pylist()]
    both = [
        tokenizer([judged_text(a, b) for a, b in zip(requests, pairs[name].to_pylist(), strict=True)])["input_ids"]
        for name in ("chosen", "rejected")
    ]
    return [2 * head + len(a) + len(b) for a, b in zip(*both, strict=True)]
