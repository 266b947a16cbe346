"""A sample of the corpus in figures, and how many rows there are: read as triage reads, tokenised as training does."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from trace_ray.chat.text import RefusedText, accepted
from trace_ray.config import Config, CorpusConfig, ModelConfig
from trace_ray.config.policy import PolicyConfig
from trace_ray.corpus.check import SAMPLED_ROWS, check_corpus, refusal
from trace_ray.corpus.files import count_rows
from trace_ray.corpus.read import Chunk, Source, read_sources
from trace_ray.errors import UserError
from trace_ray.evaluate.attacks import attacking_prompts
from trace_ray.evaluate.prompt_files import Row
from trace_ray.evaluate.prompts import own_prompts
from trace_ray.judges import rules
from trace_ray.judges.backends import corrector_kind
from trace_ray.judges.gold import GoldCorrector
from trace_ray.model.loading import load_chat_tokenizer
from trace_ray.pairs import RESPONSE_NAMES, Category, Split, categorise, prompt_text
from trace_ray.plan.judges import EVALUATION, PANEL
from trace_ray.plan.reading import Questions, Reader, judged_tokens, readers
from trace_ray.plan.workload import Prompts, SampledPair
from trace_ray.storage.location import expand

_ALL_BYTES = 1 << 40
COUNTED_FILES = 16


@dataclass(frozen=True)
class Sample:
    """What was read.

    Args:
        pairs: the sampled pairs in figures.
        rows: of the whole corpus.
        table: the sampled pairs (PAIR_SCHEMA columns, category where rules decide, corrected where it is known).
        readings: {judge's setting: sizes of its further questions}.
        own: prompts of ``evaluate.prompt_file``, None without one; attacks: of ``evaluate.attacks``.
    """

    pairs: list[SampledPair]
    rows: int
    table: pa.Table
    readings: dict[str, Questions]
    own: Prompts | None
    attacks: Prompts


def read_sample(sources: Sequence[Source], config: Config) -> Sample:
    """Returns the first rows of evenly chosen files, training and held-out files apart.

    Raises: UserError where none of the sampled rows of either kind is a pair.
    """
    limit = config.corpus.limit
    kinds = [[s for s in sources if s.split != Split.TEST], [s for s in sources if s.split == Split.TEST]]
    tables, stands_for, rows = [], [], 0
    for setting, files, most in zip(("paths", "test_paths"), kinds, (limit, 0), strict=True):
        found = list(_chunks(files, config.corpus, config.plan.sample_rows, most)) if files else []
        if files and not any(chunk.pairs.num_rows for chunk in found):
            looked_at = check_corpus(files[:1], config.corpus, SAMPLED_ROWS).files[0]
            raise UserError(f"corpus.{setting}", list(getattr(config.corpus, setting)), refusal(looked_at))
        there = min(corpus_rows(files), most or corpus_rows(files)) if files else 0
        seen = sum(chunk.rows for chunk in found)
        pairs = [chunk.pairs for chunk in found]
        tables += pairs
        stands_for += [there / max(1, seen)] * sum(table.num_rows for table in pairs)
        rows += there
    table = pa.concat_tables(tables)
    if any(clause.rule is not None for clause in config.policy.clauses):
        table = decided_by_rules(table, config.policy)
    table = table.append_column("corrected", pa.array(known_corrections(table, config), pa.string()))
    by = readers(config)
    evaluate, storage = config.evaluate, config.storage
    return Sample(
        _in_figures(table, stands_for, by, config.model),
        rows,
        table,
        {name: reader.questions(table) for name, reader in by.items()},
        _prompts(own_prompts(evaluate, storage), by, config.model) if evaluate.prompt_file else None,
        _prompts(attacking_prompts(evaluate.attacks, storage), by, config.model),
    )


def _prompts(rows: Sequence[Row], by: Mapping[str, Reader], model: ModelConfig) -> Prompts:
    """Prompts of a file in figures: the models are sent ``ask``, which an attack wraps; judges read the plain one."""
    chat = load_chat_tokenizer(model)
    sent = accepted(chat.prompts([row["ask"] if "ask" in row else row["prompt"] for row in rows]))
    plain = [prompt_text(row["prompt"]) for row in rows]
    asked = {name: reader for name, reader in by.items() if name.startswith((EVALUATION, PANEL))}
    read = {name: sum(reader.judged(plain, [""] * len(plain))) for name, reader in asked.items()}
    return Prompts(number=len(rows), sent=sum(map(len, sent)), read=read)


def decided_by_rules(pairs: pa.Table, policy: PolicyConfig) -> pa.Table:
    """Returns the pairs with ``category`` as the policy's rules have it."""
    requests = pa.array([prompt_text(prompt) for prompt in pairs["prompt"].to_pylist()], pa.string())
    complies = [
        [not bit for bit in rules.violates(policy, requests, pairs[name].combine_chunks()).to_pylist()]
        for name in ("chosen", "rejected")
    ]
    categories = [categorise(*bits).value for bits in zip(*complies, strict=True)]
    return pairs.append_column("category", pa.array(categories, pa.string()))


def known_corrections(pairs: pa.Table, config: Config) -> list[str | None]:
    """Returns y_c of each pair that may be PUNISH: as people wrote it, else cut by code; None where neither has one."""
    triage, chosen = config.triage, pairs["chosen"].to_pylist()
    found: list[str | None] = [None] * len(chosen)
    if corrector_kind(config.policy, triage) == "gold":
        requests = [prompt_text(prompt) for prompt in pairs["prompt"].to_pylist()]
        place = expand((triage.gold_responses,), config.storage, "triage.gold_responses")[0]
        found = [draft.text for draft in GoldCorrector(place).drafts(requests, chosen)]
    elif triage.correct and (limit := rules.word_limit(config.policy)):
        found = [rules.cut_to_words(text, limit) for text in chosen]
    categories = pairs["category"].to_pylist() if "category" in pairs.column_names else [Category.PUNISH] * len(chosen)
    return [response if name == Category.PUNISH else None for response, name in zip(found, categories, strict=True)]


def _chunks(sources: Sequence[Source], corpus: CorpusConfig, rows: int, limit: int) -> Iterator[Chunk]:
    files = sources[:: max(1, len(sources) // COUNTED_FILES)][:COUNTED_FILES]
    for source in files:
        share = -(-rows // len(files))
        capped = min(share, limit) if limit else share
        yield from read_sources([source], corpus, capped, _ALL_BYTES)


def corpus_rows(sources: Sequence[Source]) -> int:
    """Returns the rows of files; those after the first COUNTED_FILES are judged by their bytes."""
    counted = sum(count_rows(source.place) for source in sources[:COUNTED_FILES])
    sizes: list[int] = [source.place.fs.get_file_info(source.place.path).size for source in sources]
    return round(counted * sum(sizes) / max(1, sum(sizes[:COUNTED_FILES])))


def _in_figures(
    table: pa.Table, stands_for: Sequence[float], by: dict[str, Reader], model: ModelConfig
) -> list[SampledPair]:
    tokenizer = load_chat_tokenizer(model)
    rows = table.to_pylist()
    responses = [{name: row[name] for name in RESPONSE_NAMES if row.get(name) is not None} for row in rows]
    rendered = tokenizer.pairs([row["prompt"] for row in rows], responses)
    prompts = [(row["split"], json.dumps(row["prompt"])) for row in rows]  # held out is held out, trained on or not
    first = {prompt: i for i, prompt in reversed(list(enumerate(prompts)))}
    repeated = [first[prompt] != i for i, prompt in enumerate(prompts)]
    figures = zip(rows, stands_for, rendered, repeated, judged_tokens(table, by), strict=True)
    return [
        SampledPair(
            stands_for=number,
            category=row.get("category"),
            test=row["split"] == Split.TEST,
            repeated=again,
            prompt=len(sequences.prompt_ids),
            responses={name: len(ids) for name, ids in sequences.response_ids.items()},
            judged=tokens,
        )
        for row, number, sequences, again, tokens in figures
        if not isinstance(sequences, RefusedText)
    ]
