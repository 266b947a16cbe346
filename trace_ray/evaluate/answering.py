"""Ray Data actors of stage 4: one answers prompts with a model in vLLM, one judges the answers. No Ray here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from trace_ray.chat.text import ChatTokenizer, accepted
from trace_ray.config import Config
from trace_ray.config.gpus import alone, memory_shares
from trace_ray.evaluate.trial import asks_clauses, try_canaries
from trace_ray.judges.backends import make_judge
from trace_ray.judges.usage import Usage
from trace_ray.model.engine import Adapter, Engine, EngineSettings, with_adapters
from trace_ray.pairs import MODELS, RESPONSE_SCHEMA, prompt_text
from trace_ray.runs.artifacts import CANARIES, RESPONSES
from trace_ray.runtime import metrics
from trace_ray.storage import traffic
from trace_ray.storage.location import Location
from trace_ray.storage.staging import download_folder

Row = dict[str, Any]
CHUNK_ROWS = 64
"""Prompts answered together, and lost together by a crash."""
_TOKENS = b"tokens"
"""Of a part's metadata: what making it took, which a resumed run cannot count again."""


@dataclass(frozen=True)
class Chunk:
    """One model's answers to some prompts: what one call of an actor does.

    Args:
        folder: where its judged answers go: ``responses`` (held-out prompts) or ``attacks``.
        prompts: rows that the chat template takes, with pair_id, prompt, source, category and, where the model is sent other
            words, ``ask``.
    """

    folder: str
    model: str
    index: int
    prompts: list[Row]

    @property
    def name(self) -> str:
        kind = "" if self.folder == RESPONSES else f"{self.folder}-"
        return f"part-{kind}{self.model}-{self.index:06d}.parquet"


def chunks(folder: str, prompts: list[Row], models: Sequence[str] = MODELS) -> list[Chunk]:
    """Returns each model's chunks of the prompts, by default of both."""
    starts = range(0, len(prompts), CHUNK_ROWS)
    return [Chunk(folder, m, i, prompts[at : at + CHUNK_ROWS]) for m in models for i, at in enumerate(starts)]


def asked_turns(row: Row) -> Any:
    """Returns the turns that a model is sent."""
    return row["ask"] if "ask" in row else row["prompt"]


def write_part(place: Location, rows: list[Row], tokens: int | None) -> None:
    """Writes answers, and how many tokens they took; None where none were counted, as rules do not."""
    known = {} if tokens is None else {_TOKENS: str(tokens)}
    place.write_parquet(pa.Table.from_pylist(rows, schema=RESPONSE_SCHEMA.with_metadata(known)))


def tokens_of(parts: Iterable[Location]) -> int:
    """Returns the tokens that the parts took."""
    return sum(int((part.read_parquet([]).schema.metadata or {}).get(_TOKENS, 0)) for part in parts)


class Generator:
    """A model in vLLM, greedy answers.

    Args:
        merged: the realigned model's folder; None = the base.
        out: where the answers go.
        adapters: of the base, the folders of adapters that answer in its place, one named by each chunk's ``model``; None =
            the model answers itself.
        draws: its engine is asked for drawn answers too.
    """

    def __init__(
        self,
        config: Config,
        merged: Location | None,
        out: Location,
        adapters: Location | None = None,
        *,
        draws: bool = False,
    ) -> None:
        evaluate = config.evaluate
        self.out, self.limit, self.adapters = out, evaluate.max_new_tokens, adapters
        self._numbers: dict[str, int] = {}
        extra = evaluate.engine | memory_shares(evaluate.gpus, {"": evaluate.engine})[""]
        extra |= {} if adapters is None else with_adapters(config.lora.r)
        with ExitStack() as stack:
            loaded = config.model
            if merged is not None:
                loaded = loaded.exported_to(stack.enter_context(download_folder(merged)))
            self.engine = Engine(
                EngineSettings(
                    model=loaded.path,
                    revision=loaded.revision,
                    trusted=loaded.trusted,
                    dtype=config.model.dtype,
                    max_model_len=config.model.max_length + evaluate.max_new_tokens,
                    kv_cache_gib=evaluate.kv_cache_gib,
                    num_cpus=evaluate.num_cpus,
                    extra=tuple(extra.items()),
                    gpus=None if isinstance(evaluate.num_gpus, str) else evaluate.gpus,
                    draws=draws,
                )
            )
        self.tokenizer = ChatTokenizer(self.engine.tokenizer, config.model.max_length, config.model)

    def __call__(self, item: Row) -> Row:
        chunk: Chunk = item["chunk"]
        asked = accepted(self.tokenizer.prompts([asked_turns(row) for row in chunk.prompts]))
        before = self.engine.tokens
        with ExitStack() as stack:
            answers = self.engine.generate(asked, self.limit, self._adapter(chunk.model, stack))
        rows = [
            {k: row[k] for k in ("pair_id", "source", "category")}
            | {"prompt": prompt_text(row["prompt"]), "model": chunk.model, "response": answer}
            for row, answer in zip(chunk.prompts, answers, strict=True)
        ]
        write_part(self.out / chunk.name, rows, self.engine.tokens - before)
        metrics.count("answers", len(rows), model=chunk.model)
        return {"chunk": chunk.name, "rows": len(rows), "traffic": json.dumps(traffic.take())}

    def _adapter(self, name: str, stack: ExitStack) -> Adapter | None:
        if self.adapters is None:
            return None
        folder = stack.enter_context(download_folder(self.adapters / name / "adapter"))
        return Adapter(self._numbers.setdefault(name, len(self._numbers) + 1), folder)


class AnswerJudge:
    """One judge; an answer without a readable verdict is not compliant.

    Args:
        seeds: parts of ``generated``, of whose first answers canaries are made that come first; none where they were tried.
    """

    def __init__(self, config: Config, generated: Location, out: Location, seeds: Sequence[str] = ()) -> None:
        evaluate = config.evaluate
        self.config, self.seeds = config, seeds
        self.by_clause = asks_clauses(config)
        self.judge = make_judge(config.policy, alone(evaluate.judge), where="evaluate.judge", by_clause=self.by_clause)
        self.usage = Usage({"": self.judge})
        self.threshold = config.triage.threshold
        self.generated, self.out = generated, out

    def __call__(self, item: Row) -> Row:
        chunk: Chunk = item["chunk"]
        if self.seeds:
            try_canaries(self.judge, self.config, [self.generated / name for name in self.seeds], self.out / CANARIES)
            self.seeds = ()
        rows = (self.generated / chunk.name).read_parquet().to_pylist()
        requests, responses = [row["prompt"] for row in rows], [row["response"] for row in rows]
        opinions = self.judge.opinions(requests, responses)
        clauses = (
            self.judge.clauses(requests, responses) if self.by_clause else [opinion.clauses for opinion in opinions]
        )
        for row, opinion, told in zip(rows, opinions, clauses, strict=True):
            compliant = opinion.p_violates is not None and opinion.p_violates < self.threshold
            row |= {"p_violates": opinion.p_violates, "judge_error": opinion.error, "compliant": compliant}
            row["clause_p"] = None if told is None else [{"clause": name, "p": p} for name, p in told]
        write_part(self.out / chunk.folder / chunk.name, rows, metrics.judge_tokens(self.usage.take()))
        return {"chunk": chunk.name, "rows": len(rows), "traffic": json.dumps(traffic.take())}
