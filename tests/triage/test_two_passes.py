"""A cascade whose judges take turns says what the two say side by side, and asks each of them no more."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest

from tests.support.in_process import triage_in_process
from trace_ray.config import Config, CorpusConfig, JudgeConfig, StorageConfig, TriageConfig
from trace_ray.config import gpus as gpus_module
from trace_ray.config.gpus import correcting_pool, in_two_passes, judging_pools, strong_alone
from trace_ray.config.policy import ClauseConfig, PolicyConfig, RuleConfig
from trace_ray.errors import JudgeRejectedError
from trace_ray.judges.opinion import Clauses, Opinion
from trace_ray.pairs import RejectReason
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import locate
from trace_ray.triage import judging
from trace_ray.triage.block import Bench, judge_block
from trace_ray.triage.first_decided import read_decided, write_decided
from trace_ray.triage.first_pass import surely
from trace_ray.triage.guard import unguarded
from trace_ray.triage.judge_worker import JudgeActor
from trace_ray.triage.stage import run_triage
from trace_ray.triage.store import response_key
from trace_ray.triage.trial import CANARY_PAIRS
from trace_ray.triage.workers import DecideActor

POLICY = PolicyConfig(text="x")
BAND = (0.2, 0.7)
PAIRS = 150
CORPUS = {(f"q{i % 97}", f"answer-{side}{i}") for i in range(PAIRS) for side in "cr"}


def chance(name: str, request: str, response: str) -> float:
    """A number in [0, 1] that depends on the texts and the judge's name alone."""
    return int(hashlib.sha256(f"{name}/{request}/{response}".encode()).hexdigest()[:8], 16) / 16**8


class Saying:
    """A judge whose verdicts are drawn by the texts; one in ten is unreadable. Attacks change nothing of its verdict."""

    name = ""
    asked: ClassVar[Counter[tuple[str, str]]]

    def __init__(self, _policy: PolicyConfig, _config: JudgeConfig) -> None:
        self.judged = self.named = 0

    @classmethod
    def said(cls, request: str, response: str) -> float | None:
        core = next((word for word in response.split() if word.startswith("answer-")), response)
        return None if chance(f"{cls.name}?", request, core) < 0.1 else chance(cls.name, request, core)

    def opinions(self, requests: Sequence[str], responses: Sequence[str]) -> list[Opinion]:
        self.asked.update(zip(requests, responses, strict=True))
        self.judged += len(responses)
        said = map(self.said, requests, responses)
        return [Opinion(p) if p is not None else Opinion(None, f"{self.name} mumbles") for p in said]

    def clauses(self, requests: Sequence[str], responses: Sequence[str]) -> list[Clauses]:
        self.named += len(responses)
        return [((self.name, chance("clause", *both)),) for both in zip(requests, responses, strict=True)]

    def counts(self) -> dict[str, int]:
        return {"judged_prompts": self.judged, "named_prompts": self.named}


class Cheap(Saying):
    name = "cheap"
    asked: ClassVar[Counter[tuple[str, str]]] = Counter()


class Strong(Saying):
    name = "strong"
    asked: ClassVar[Counter[tuple[str, str]]] = Counter()


@pytest.fixture(autouse=True)
def nobody_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    triage_in_process(monkeypatch)
    for judge in (Cheap, Strong):
        judge.asked.clear()


def settings(**more: Any) -> TriageConfig:
    cheap = JudgeConfig(backend=f"{__name__}:Cheap", batch_rows=96)
    strong = JudgeConfig(backend=f"{__name__}:Strong", batch_rows=64, max_actors=3)
    given = {"audit_sample": 40, "clauses": True, "clauses_from": 0.5} | more
    return TriageConfig(judge=strong, first_judge=cheap, escalate_from=BAND[0], escalate_to=BAND[1], **given)


def rows() -> list[dict[str, str]]:
    """Pairs, some of them twice and some refused."""
    made = [{"prompt": f"q{i % 97}", "chosen": f"answer-c{i}", "rejected": f"answer-r{i}"} for i in range(PAIRS)]
    return [*made, made[3], {"prompt": "q", "chosen": "same", "rejected": "same"}]


def triaged(folder: Path, triage: TriageConfig, name: str = "run") -> Run:
    folder.mkdir(exist_ok=True)
    (folder / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    run = Run(locate(str(folder / name), StorageConfig()))
    run_triage(run, Config(policy=POLICY, corpus=CorpusConfig(paths=(str(folder / "x.jsonl"),)), triage=triage))
    return run


def tables(run: Run) -> list[list[dict[str, Any]]]:
    """Verdicts, triaged rows and rejects, by row."""
    places = [run.triaged.place / "verdicts", run.triaged.place, run.rejects.place]
    read = [pa.concat_tables([file.read_parquet() for file in place.files(".parquet")]) for place in places]
    return [table.sort_by("row").to_pylist() for table in read]


def side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets both judges live in one actor, as before they took turns."""
    for module in (gpus_module, judging):
        monkeypatch.setattr(module, "in_two_passes", lambda _triage: False)


def test_each_response_has_the_verdict_of_the_judge_that_the_band_says(tmp_path: Path) -> None:
    run = triaged(tmp_path, settings())
    verdicts, kept, refused = tables(run)
    assert len(kept) + len(refused) == len(rows())
    texts = {row["row"]: row for row in kept}
    decided = Counter[str]()
    for verdict in (verdict for verdict in verdicts if verdict["reason"] is None):
        for side in ("chosen", "rejected"):
            request, response = texts[verdict["row"]]["prompt"][0]["content"], texts[verdict["row"]][side]
            first = Cheap.said(request, response)
            who = Cheap if first is not None and not BAND[0] <= first <= BAND[1] else Strong
            assert verdict[f"p_{side}"] == who.said(request, response)
            named = verdict[f"clause_p_{side}"] or []
            assert [clause["clause"] for clause in named] in ([], [who.name])
            decided[who.name] += 1
    assert min(decided.values()) > PAIRS / 2


def test_the_same_rows_counts_and_questions_as_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taking_turns = triaged(tmp_path / "a", settings(min_canary_pass=0.0))
    asked = {judge: +judge.asked for judge in (Cheap, Strong)}
    for judge in (Cheap, Strong):
        judge.asked.clear()
    side_by_side(monkeypatch)
    together = triaged(tmp_path / "b", settings(min_canary_pass=0.0))
    assert tables(taking_turns) == tables(together)
    for judge, questions in asked.items():  # canaries are tried on the strong one alone here, there behind the first
        mine, theirs = ({both: n for both, n in found.items() if both in CORPUS} for found in (questions, judge.asked))
        extra = mine.keys() - theirs.keys()
        assert theirs.keys() <= mine.keys()
        assert len(extra) <= 2 * CANARY_PAIRS
        assert not (extra and judge is Cheap)
    used, other = taking_turns.triaged.manifest()["used"], together.triaged.manifest()["used"]
    for name in (
        "responses_judged",
        "responses_judged_first",
        "responses_repeated",
        "named_prompts",
        "first_named_prompts",
    ):
        assert used[name] == other[name]
    assert taking_turns.triaged.manifest()["counts"] == together.triaged.manifest()["counts"]
    assert 0.4 < taking_turns.triaged.manifest()["escalated_share"] < 0.8


def test_a_resume_asks_nobody_again_about_what_a_pass_has_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = triaged(tmp_path / "a", settings())
    asked = {judge: +judge.asked for judge in (Cheap, Strong)}
    for judge in asked:
        judge.asked.clear()

    def stopped(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(
            JudgeActor, "_judge", stopped
        )  # the strong judge has looked first, and the first one is through
        with pytest.raises(KeyboardInterrupt):
            triaged(tmp_path / "b", settings())
    assert Cheap.asked == asked[Cheap]
    resumed = triaged(tmp_path / "b", settings())
    assert {judge: +judge.asked for judge in asked} == asked
    assert tables(resumed) == tables(whole)
    assert resumed.triaged.manifest()["used"] == whole.triaged.manifest()["used"]


def test_what_the_look_shows_stops_the_run_before_the_corpus_costs(tmp_path: Path) -> None:
    with pytest.raises(JudgeRejectedError):
        triaged(tmp_path, settings(max_one_sided=0.51, threshold=0.9, audit_sample=60))
    seen = {both for both in Cheap.asked if both in CORPUS}
    assert len(seen) <= 2 * (60 + CANARY_PAIRS) < len(CORPUS)


def test_verdicts_of_both_are_kept_across_runs(tmp_path: Path) -> None:
    """Of one backend that reads with a model of its own the store would hold the model's identity too."""
    kept = settings(verdict_store=str(tmp_path / "store"), audit_sample=0, min_canary_pass=0.0)
    first = triaged(tmp_path, kept)
    for judge in (Cheap, Strong):
        judge.asked.clear()
    again = triaged(tmp_path, kept, "again")
    assert tables(again) == tables(first)
    assert again.triaged.manifest()["used"]["responses_from_store"] == 2 * PAIRS
    for judge in (Cheap, Strong):  # as canaries' candidates
        assert sum(both in CORPUS for both in judge.asked) <= 2 * CANARY_PAIRS


def test_a_response_that_kills_the_first_judge_is_refused_and_the_strong_one_never_reads_it(tmp_path: Path) -> None:
    from trace_ray.corpus.read import SLOT_SCHEMA

    columns: dict[str, Any] = {name: [None] * 2 for name in SLOT_SCHEMA.names}
    columns |= {"row": [0, 1], "pair_id": ["a", "b"], "source": ["s", "s"], "slot": [0, 0]}
    columns |= {"prompt": [[{"role": "user", "content": text}] for text in ("p", "q")]}
    columns |= {"chosen": ["deadly", "c"], "rejected": ["r", "d"]}
    pairs = pa.table(columns, schema=SLOT_SCHEMA)

    def spans(_requests: Any, responses: Sequence[str], *_: Any) -> list[Opinion | None]:
        said = {"deadly": None, "r": Opinion(0.1), "c": Opinion(0.5), "d": Opinion(0.9)}
        return [said[response] for response in responses]

    place = locate(str(tmp_path / "decided.parquet"), StorageConfig())
    decided = surely(pairs, Bench(Cheap(POLICY, JudgeConfig()), None, spans, None), (0, 1), BAND)
    write_decided(place, decided)
    assert read_decided(place) == {
        response_key("p", "deadly"): None,
        response_key("p", "r"): Opinion(0.1),
        response_key("q", "d"): Opinion(0.9),
    }
    strong = Bench(Strong(POLICY, JudgeConfig()), None, unguarded, None, decided=read_decided(place))
    judged, counts = judge_block(pairs, strong, None, (0, 1))
    assert judged["reason"].to_pylist() == [RejectReason.KILLS_JUDGE.value, None]
    assert set(Strong.asked) == {("q", "c")}
    assert counts["responses_judged"] == 4


def test_only_judges_that_both_read_take_turns_and_each_pool_is_its_own() -> None:
    both = settings(second_judge=JudgeConfig(backend="vllm", model="m", num_gpus=2))
    assert in_two_passes(both)
    assert strong_alone(both).first_judge is None
    pools = judging_pools(both)
    assert [(name, pool.max_actors, pool.gpus) for name, pool in pools.items()] == [
        ("first_judge", 1, 0.0),
        ("judge", 3, 2.0),
    ]
    rules = JudgeConfig(backend="rules")
    for ruled in (replace(both, first_judge=rules), replace(both, judge=rules)):
        assert not in_two_passes(ruled)
        assert list(judging_pools(ruled)) == ["judge"]
        assert strong_alone(ruled) is ruled


def test_a_look_drawn_anew_on_a_resume_has_each_verdict_of_the_right_judge(tmp_path: Path) -> None:
    """A first look that refused the run is followed by a larger one, whose pieces hold other pairs."""
    with pytest.raises(JudgeRejectedError):
        triaged(tmp_path / "a", settings(max_one_sided=0.51, threshold=0.9, audit_sample=60))
    again = triaged(tmp_path / "a", settings(threshold=0.9, audit_sample=140))
    assert tables(again) == tables(triaged(tmp_path / "b", settings(threshold=0.9, audit_sample=140)))


def test_corrections_are_read_by_the_strong_judge_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one actor held both engines each had half a card."""
    made: list[str] = []
    begin = Saying.__init__

    def begins(judge: Saying, *given: Any) -> None:
        made.append(judge.name)
        begin(judge, *given)

    monkeypatch.setattr(Saying, "__init__", begins)
    deciding = DecideActor.__init__

    def decides(actor: DecideActor, *given: Any) -> None:
        made.clear()
        deciding(actor, *given)
        assert made == ["strong"]

    monkeypatch.setattr(DecideActor, "__init__", decides)
    words = PolicyConfig(clauses=[ClauseConfig(id="short", text="Short.", rule=RuleConfig(max_words=2))])
    (tmp_path / "x.jsonl").write_text(
        "".join(json.dumps(row | {"chosen": f"{row['chosen']}. And more words."}) + "\n" for row in rows())
    )
    run = Run(locate(str(tmp_path / "run"), StorageConfig()))
    corpus = CorpusConfig(paths=(str(tmp_path / "x.jsonl"),))
    run_triage(
        run, Config(policy=words, corpus=corpus, triage=settings(correct=True, verdict_store=str(tmp_path / "store")))
    )
    assert made == ["strong"]
    corrected = [row for row in run.triaged.read().to_pylist() if row["corrected"]]
    assert corrected
    for row in corrected:
        assert Strong.asked[row["prompt"][0]["content"], row["corrected"]]
        assert not Cheap.asked[row["prompt"][0]["content"], row["corrected"]]
    assert (
        correcting_pool(replace(settings(), first_judge=JudgeConfig(backend="vllm", model="m", num_gpus=4))).gpus == 0.0
    )
