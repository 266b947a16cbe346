"""Actors that begin a round: one answers training prompts, greedily and by drawing, one judges what was drawn. No Ray here."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from trace_ray.chat.text import RefusedText, accepted
from trace_ray.config import Config
from trace_ray.config.gpus import alone
from trace_ray.evaluate.answering import Generator
from trace_ray.judges.backends import make_judge
from trace_ray.judges.usage import Usage
from trace_ray.model.engine import Drawn, Sampling
from trace_ray.pairs import prompt_text
from trace_ray.rounds.own import ANSWER_SCHEMA, COLUMNS, VERDICT_SCHEMA, Piece, Row, candidates, training_prompts
from trace_ray.runtime import metrics
from trace_ray.storage import traffic
from trace_ray.storage.location import Location

TOKENS = b"tokens"
"""Of a piece's metadata: what making it took, which a resumed run cannot count again (``evaluate.answering.tokens_of``)."""


class OwnAnswers:
    """A model in vLLM.

    Args:
        config: of the round, whose ``model`` answers; most: see ``own.training_prompts``.
        triaged: the first round's; out: where the answers go.
    """

    def __init__(self, config: Config, triaged: Location, most: float, out: Location) -> None:
        rounds = config.rounds
        self.seed, self.most, self.triaged, self.out = rounds.seed, most, triaged, out
        self.generator = Generator(config, None, out, draws=True)
        limit = config.evaluate.max_new_tokens
        self.sampling = Sampling(rounds.samples, rounds.temperature, rounds.seed, limit, top_p=rounds.top_p)
        self._part: tuple[str, list[Row]] = ("", [])

    def __call__(self, item: Row) -> Row:
        piece: Piece = item["piece"]
        engine, limit = self.generator.engine, self.generator.limit
        rows = list(piece.of(self._prompts(piece.part)))
        found = self.generator.tokenizer.prompts([row["prompt"] for row in rows])
        taken = [i for i, ids in enumerate(found) if not isinstance(ids, RefusedText)]
        asked, before = accepted(found), engine.tokens
        greedy = engine.generate(asked, limit) if asked else []
        drawn = engine.sampled(asked, self.sampling) if asked else []
        made = [{name: row[name] for name in ("pair_id", "source", "prompt")} for row in rows]
        for row in made:
            row |= {"greedy": None, "samples": []}
        for i, text, answers in zip(taken, greedy, drawn, strict=True):
            made[i] |= {"greedy": text, "samples": whole(answers)}
        _write(self.out / piece.name, made, ANSWER_SCHEMA, engine.tokens - before)
        metrics.count("answers", len(taken), model="own")
        return {"rows": len(rows), "traffic": json.dumps(traffic.take())}

    def _prompts(self, part: str) -> list[Row]:
        if self._part[0] != part:
            table = (self.triaged / part).read_parquet(COLUMNS)
            self._part = part, training_prompts(table, self.seed, self.most)
        return self._part[1]


def whole(answers: list[Drawn]) -> list[str]:
    """Returns the drawn answers that ended by themselves: half a one is not to be learnt."""
    return [answer.text for answer in answers if answer.ended]


class SampleJudge:
    """``triage.judge``, asked where more than one drawn answer may stand against the greedy one.

    Args:
        config: of the round; answers: where ``OwnAnswers`` put them; out: where the verdicts go.
    """

    def __init__(self, config: Config, answers: Location, out: Location) -> None:
        self.judge = make_judge(config.policy, alone(config.triage.judge), where="triage.judge")
        self.usage = Usage({"": self.judge})
        self.answers, self.out = answers, out

    def __call__(self, item: Row) -> Row:
        piece: Piece = item["piece"]
        rows = (self.answers / piece.name).read_parquet().to_pylist()
        drawn = [candidates(row["greedy"] or "", row["samples"]) for row in rows]
        asked = [(i, text) for i, texts in enumerate(drawn) if len(texts) > 1 for text in texts]
        requests = [prompt_text(row["prompt"]) for row in rows]
        said = self.judge.opinions([requests[i] for i, _ in asked], [text for _, text in asked]) if asked else []
        p: list[list[float | None]] = [[None] if len(texts) == 1 else [] for texts in drawn]
        for (i, _), opinion in zip(asked, said, strict=True):
            p[i].append(opinion.p_violates)
        made = [{"pair_id": row["pair_id"], "p_violates": each} for row, each in zip(rows, p, strict=True)]
        _write(self.out / piece.name, made, VERDICT_SCHEMA, metrics.judge_tokens(self.usage.take()) or 0)
        return {"rows": len(rows), "traffic": json.dumps(traffic.take())}


def _write(place: Location, rows: list[dict[str, Any]], schema: pa.Schema, tokens: int) -> None:
    place.write_parquet(pa.Table.from_pylist(rows, schema=schema.with_metadata({TOKENS: str(tokens)})))
