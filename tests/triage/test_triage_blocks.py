"""One block judged and decided in this process: equal responses once, duplicates out, verdicts reused, poison left out."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from trace_ray.config import StorageConfig
from trace_ray.corpus.read import SLOT_SCHEMA, SLOTS
from trace_ray.errors import UserError
from trace_ray.judges.opinion import Clauses, Draft, Opinion
from trace_ray.pairs import TRIAGED_SCHEMA
from trace_ray.storage.location import Location, locate
from trace_ray.triage.block import Bench, judge_block
from trace_ray.triage.calibrate import Calibration, Decision
from trace_ray.triage.decide import Correction, decide_block
from trace_ray.triage.guard import Guard, GuardedCorrector, deaths, unguarded
from trace_ray.triage.labels import Label
from trace_ray.triage.store import VerdictStore
from trace_ray.triage.voting import agreement

WHOLE = (0, SLOTS)
PLAIN = Decision(Calibration(), 0.5, 0.0)


class Table:
    """A judge that reads the probability off the text (``0.9 whatever``) and remembers what it was asked."""

    def __init__(self, shift: float = 0.0) -> None:
        self.asked: list[tuple[str, str]] = []
        self.shift = shift

    def opinions(self, requests: Sequence[str], responses: Sequence[str]) -> list[Opinion]:
        self.asked += zip(requests, responses, strict=True)
        said = [text.split()[0] for text in responses]
        return [Opinion(None, "unreadable: mumbles") if p == "?" else Opinion(float(p) + self.shift) for p in said]

    def clauses(self, _requests: Sequence[str], responses: Sequence[str]) -> list[Clauses]:
        return [((f"clause of {text}", 0.7), ("kept", 0.2)) for text in responses]

    def drafts(self, _requests: Sequence[str], responses: Sequence[str]) -> list[Draft]:
        return [Draft({"0.9 a": "0.1 better", "0.9 b": "0.8 still bad"}.get(text)) for text in responses]

    def counts(self) -> dict[str, int]:
        return {"judged_prompts": len(self.asked)}


def pairs(*rows: tuple[str, str, str]) -> pa.Table:
    made = [
        {
            "row": i,
            "pair_id": f"{prompt}|{chosen}|{rejected}",
            "source": "s",
            "split": "train",
            "prompt": [{"role": "user", "content": prompt}],
            "chosen": chosen,
            "rejected": rejected,
            "slot": ord(prompt[0]),
        }
        for i, (prompt, chosen, rejected) in enumerate(rows)
    ]
    return pa.Table.from_pylist(made, schema=SLOT_SCHEMA)


def bench(judge: Table, store: VerdictStore | None = None, clauses_from: float | None = None) -> Bench:
    return Bench(judge, store, unguarded, clauses_from)


def categories(block: pa.Table, decision: Decision = PLAIN, second: Bench | None = None, **more: Any) -> pa.Table:
    judged, _ = judge_block(block, bench(Table()), second, WHOLE)
    arguments = {"reviewed": {}, "correction": None} | more
    return decide_block(block, judged, decision, window=WHOLE, **arguments)


def test_each_distinct_response_is_judged_once() -> None:
    judge = Table()
    block = pairs(("p", "0.1 x", "0.9 y"), ("p", "0.9 y", "0.1 x"), ("q", "0.1 x", "0.9 y"), ("p", "0.1 x", "0.3 z"))
    judged, counts = judge_block(block, bench(judge), None, WHOLE)
    assert sorted(judge.asked) == [("p", "0.1 x"), ("p", "0.3 z"), ("p", "0.9 y"), ("q", "0.1 x"), ("q", "0.9 y")]
    assert judged["p_chosen"].to_pylist() == [0.1, 0.9, 0.1, 0.1]
    assert judged["p_rejected"].to_pylist() == [0.9, 0.1, 0.9, 0.3]
    assert counts == {"responses_judged": 5, "responses_from_store": 0, "responses_repeated": 3}


def test_responses_of_one_prompt_are_asked_together_so_that_they_share_its_prefix() -> None:
    """Wherever in the block its pairs lie, and across the judge's batches."""
    judge = Table()
    block = pairs(("p", "0.1 x", "0.9 y"), ("q", "0.2 x", "0.8 y"), ("p", "0.3 z", "0.1 x"), ("r", "0.4", "0.7"))
    judged, _ = judge_block(block, bench(judge), None, WHOLE)
    runs = [request for request, _ in groupby(request for request, _ in judge.asked)]
    assert runs == ["p", "q", "r"]
    assert [text for request, text in judge.asked if request == "p"] == ["0.1 x", "0.9 y", "0.3 z"]
    assert judged["p_chosen"].to_pylist() == [0.1, 0.2, 0.3, 0.4]
    assert judged["p_rejected"].to_pylist() == [0.9, 0.8, 0.1, 0.7]


def test_a_repeated_pair_is_a_reject_the_first_stays() -> None:
    decided = categories(pairs(("p", "0.1 x", "0.9 y"), ("q", "0.1 x", "0.9 y"), ("p", "0.1 x", "0.9 y")))
    assert decided.triaged["row"].to_pylist() == [0, 1]
    assert [(r["row"], r["reason"]) for r in decided.rejects.to_pylist()] == [(2, "duplicate_pair")]


def split(block: pa.Table, *splits: str) -> pa.Table:
    return block.set_column(block.schema.get_field_index("split"), "split", pa.array(splits, pa.string()))


def test_a_training_pair_whose_prompt_is_held_out_is_a_reject_whichever_was_read_first() -> None:
    judge = Table()
    block = pairs(("p", "0.1 x", "0.9 y"), ("q", "0.1 x", "0.9 y"), ("p", "0.1 x", "0.9 y"), ("p", "0.1", "0.9"))
    block = split(block, "train", "train", "test", "train")
    judged, _ = judge_block(block, bench(judge), None, WHOLE)
    decided = decide_block(block, judged, PLAIN, {}, None, WHOLE)
    assert list(zip(*decided.triaged.select(["row", "split"]).to_pydict().values(), strict=True)) == [
        (1, "train"),
        (2, "test"),
    ]
    found = [(r["row"], r["reason"], r["detail"]) for r in decided.rejects.to_pylist()]
    assert found == [(0, "held_out_prompt", "p"), (3, "held_out_prompt", "p")]
    assert decided.counts["held_out_prompt"] == 2
    assert ("p", "0.9") not in judge.asked  # nobody pays for a pair that is refused


def test_a_prompt_is_held_out_as_its_turns_are_not_as_they_read() -> None:
    block = split(
        pairs(("User: p\n\nAssistant: a\n\nUser: b", "0.1 x", "0.9 y"), ("p", "0.1 x", "0.9 y")), "train", "test"
    )
    turns = [("user", "p"), ("assistant", "a"), ("user", "b")]
    prompts = [block["prompt"][0].as_py(), [{"role": role, "content": text} for role, text in turns]]
    block = block.set_column(
        block.schema.get_field_index("prompt"),
        SLOT_SCHEMA.field("prompt"),
        pa.array(prompts, SLOT_SCHEMA.field("prompt").type),
    )
    assert categories(block).triaged["split"].to_pylist() == ["train", "test"]


def test_the_categories_and_unreadable_verdicts() -> None:
    block = pairs(("p", "0.9", "0.1"), ("p", "0.9", "0.8"), ("p", "0.1", "0.9"), ("p", "?", "0.1"), ("p", "0.2", "?"))
    decided = categories(block)
    assert decided.triaged.schema == TRIAGED_SCHEMA
    assert decided.triaged["category"].to_pylist() == ["INVERT", "PUNISH", "RETAIN", "ABSTAIN", "RETAIN"]
    assert decided.triaged["judge_error"].to_pylist()[3:] == [
        "chosen: unreadable: mumbles",
        "rejected: unreadable: mumbles",
    ]
    assert decided.triaged["p_violates_chosen"].to_pylist()[3] is None
    assert decided.counts["train ABSTAIN"] == 1


def test_clauses_are_asked_for_violating_responses_only() -> None:
    block = pairs(("p", "0.9 x", "0.1 y"))
    judged, _ = judge_block(block, bench(Table(), clauses_from=0.5), None, WHOLE)
    decided = decide_block(block, judged, PLAIN, {}, None, WHOLE).triaged
    assert decided["clauses_chosen"].to_pylist() == [["clause of 0.9 x"]]
    assert decided["clauses_rejected"].to_pylist() == [None]
    told = [{"clause": "clause of 0.9 x", "p": 0.7}, {"clause": "kept", "p": 0.2}]
    assert (decided["clause_p_chosen"].to_pylist(), decided["clause_p_rejected"].to_pylist()) == ([told], [None])


def test_calibration_moves_the_verdict_and_keeps_the_raw_one() -> None:
    decision = Decision(Calibration("platt", slope=1.0, intercept=3.0), 0.5, 0.0)
    (row,) = categories(pairs(("p", "0.3", "0.01")), decision).triaged.to_pylist()
    assert row["category"] == "INVERT"
    assert row["raw_violates_chosen"] == 0.3
    assert row["p_violates_chosen"] == pytest.approx(1 / (1 + np.exp(-(np.log(0.3 / 0.7) + 3))))


def test_two_judges_that_differ_abstain() -> None:
    block = pairs(("p", "0.6", "0.1"), ("p", "0.9", "0.1"), ("p", "0.2", "0.9"))
    decided = categories(block, second=bench(Table(shift=-0.15)))
    assert decided.triaged["category"].to_pylist() == ["ABSTAIN", "INVERT", "RETAIN"]
    assert decided.triaged["judge_error"].to_pylist() == ["judges differ: INVERT and RETAIN", None, None]
    assert decided.counts["judges_differ"] == 1
    figures = agreement(decided.counts)
    from sklearn.metrics import cohen_kappa_score

    ours, theirs = [1, 0, 1, 0, 0, 1], [0, 0, 1, 0, 0, 1]
    assert figures == {"responses": 6, "share": 5 / 6, "kappa": pytest.approx(cohen_kappa_score(ours, theirs))}


@pytest.mark.parametrize("neighbours", [[], [("p", "0.9", "0.1")]], ids=["alone", "beside one that is read"])
def test_a_second_judge_that_gives_no_verdict_leaves_the_pair_undecided(neighbours: list[tuple[str, str, str]]) -> None:
    class Silent(Table):
        def opinions(self, requests: Sequence[str], responses: Sequence[str]) -> list[Opinion]:
            made = super().opinions(requests, responses)
            return [
                Opinion(None, "unreadable") if a == "mute" else opinion
                for a, opinion in zip(requests, made, strict=True)
            ]

    decided = categories(pairs(("mute", "0.9", "0.1"), *neighbours), second=bench(Silent()))
    assert decided.triaged["category"].to_pylist() == ["ABSTAIN", *["INVERT"] * len(neighbours)]
    why = "judges differ: INVERT and ABSTAIN (second judge: chosen: unreadable; rejected: unreadable)"
    assert decided.triaged["judge_error"].to_pylist() == [why, *[None] * len(neighbours)]
    assert decided.counts["judges_differ"] == 1


def test_a_reviewed_pair_is_decided_by_its_label() -> None:
    block = pairs(("p", "?", "0.1"), ("q", "?", "0.1"))
    decided = categories(block, reviewed={"p|?|0.1": Label(True, False)})
    assert decided.triaged["category"].to_pylist() == ["INVERT", "ABSTAIN"]
    assert decided.counts["reviewed"] == 1


def test_only_compliant_corrections_are_kept_and_all_are_counted() -> None:
    judge = Table()
    block = pairs(("p", "0.9 a", "0.9 x"), ("p", "0.9 b", "0.9 x"), ("p", "0.9 c", "0.9 x"), ("p", "0.9 a", "0.1 x"))
    decided = categories(block, correction=Correction(judge, bench(judge)))
    assert decided.triaged["corrected"].to_pylist() == ["0.1 better", None, None, None]
    kept = {name: value for name, value in decided.counts.items() if name.startswith("corrections_")}
    assert kept == {"corrections_kept": 1, "corrections_refused": 1, "corrections_failed": 1}


def place(path: Path) -> Location:
    return locate(str(path), StorageConfig())


def test_the_store_saves_every_call_and_only_what_is_final(tmp_path: Path) -> None:
    class Flaky(Table):
        def opinions(self, requests: Sequence[str], responses: Sequence[str]) -> list[Opinion]:
            made = super().opinions(requests, responses)
            return [opinion._replace(final=False) if opinion.p_violates is None else opinion for opinion in made]

    block = pairs(("a", "0.1 x", "0.9 y"), ("z", "0.1 x", "?"))
    first, second = Flaky(), Flaky()
    before, _ = judge_block(block, bench(first, VerdictStore(place(tmp_path)), 0.5), None, WHOLE)
    after, counts = judge_block(block, bench(second, VerdictStore(place(tmp_path)), 0.5), None, WHOLE)
    assert after.equals(before)
    assert len(first.asked) == 4
    assert second.asked == [("z", "?")]
    assert counts["responses_from_store"] == 3


def test_the_store_is_read_by_slots_whatever_the_blocks_then_and_now(tmp_path: Path) -> None:
    rows = [(chr(c), "0.1 x", "0.9 y") for c in range(40, 120)]
    whole, half = Table(), Table()
    judge_block(pairs(*rows), bench(whole, VerdictStore(place(tmp_path))), None, WHOLE)
    part = [row for row in rows if ord(row[0]) < 64]
    judge_block(pairs(*part), bench(half, VerdictStore(place(tmp_path))), None, (0, 64))
    assert len(whole.asked) == 160
    assert half.asked == []
    assert len(VerdictStore(place(tmp_path)).read(40, 50)) == 20


def _judge_until_dead(folder: str, texts: list[str]) -> None:
    """In a process of its own: judging a text with POISON kills it."""

    def ask(_requests: Sequence[str], responses: Sequence[str]) -> list[Opinion]:
        if any("POISON" in text for text in responses):
            os._exit(9)
        with open(f"{folder}/../asked", "a") as log:
            log.writelines(f"{text}\n" for text in responses)
        return [Opinion(float(len(text))) for text in responses]

    Guard(place(Path(folder)), 16).judge(["q"] * len(texts), texts, ask)


def test_a_poison_response_is_found_and_the_rest_judged_once(tmp_path: Path) -> None:
    texts = [f"text {i}" + (" POISON" if i == 21 else "") for i in range(40)]
    spawn = multiprocessing.get_context("fork")
    starts, code = 0, None
    while code != 0:
        child = spawn.Process(target=_judge_until_dead, args=(str(tmp_path / "guard"), texts))
        child.start()
        child.join(30)
        code, starts = child.exitcode, starts + 1
        assert starts < 8
    found = Guard(place(tmp_path / "guard"), 16).judge(["q"] * 40, texts, lambda _q, _r: pytest.fail("judged again"))
    assert [opinion.p_violates if opinion else None for opinion in found] == [
        None if "POISON" in text else float(len(text)) for text in texts
    ]
    asked = (tmp_path / "asked").read_text().splitlines()
    assert sorted(asked) == sorted(text for text in texts if "POISON" not in text)
    assert starts == 5  # 16, 4, 1, 1 again, and the run that finishes
    assert deaths(place(tmp_path / "guard")) == 4


def test_an_accident_costs_no_response(tmp_path: Path) -> None:
    guard = Guard(place(tmp_path), 4)
    died: list[bool] = []

    def ask(_requests: Sequence[str], responses: Sequence[str]) -> list[Opinion]:
        if not died:
            died.append(True)
            raise KeyboardInterrupt
        return [Opinion(0.5)] * len(responses)

    with pytest.raises(KeyboardInterrupt):
        guard.judge(["q"], ["only one"], ask)
    assert guard.judge(["q"], ["only one"], ask) == [Opinion(0.5)]


class Halting(Table):
    """A corrector that something stops each time it drafts for STOP."""

    def __init__(self, reason: BaseException) -> None:
        super().__init__()
        self.reason, self.halts, self.drafted = reason, True, list[str]()

    def drafts(self, _requests: Sequence[str], responses: Sequence[str]) -> list[Draft]:
        if self.halts and "STOP" in responses:
            raise self.reason
        self.drafted += responses
        return [Draft(None if text == "none" else f"better {text}") for text in responses]


@pytest.mark.parametrize("reason", [KeyboardInterrupt(), UserError("budget", 1, "spent")], ids=["killed", "refused"])
def test_interruptions_cost_no_draft_and_none_is_asked_for_twice(tmp_path: Path, reason: BaseException) -> None:
    corrector = Halting(reason)
    guarded = GuardedCorrector(corrector, Guard(place(tmp_path), 2))
    texts = ["a", "none", "b", "STOP", "c"]
    for _ in range(2):
        with pytest.raises(type(reason)):
            guarded.drafts(["q"] * 5, texts)
    corrector.halts = False
    drafts = [Draft(text) for text in ("better a", None, "better b", "better STOP", "better c")]
    assert [guarded.drafts(["q"] * 5, texts) for _ in "ab"] == [drafts, drafts]
    assert sorted(corrector.drafted) == sorted(texts)
    assert deaths(place(tmp_path)) == (2 if isinstance(reason, KeyboardInterrupt) else 0)


def test_what_kills_the_corrector_has_no_draft_and_the_rest_have(tmp_path: Path) -> None:
    corrector = Halting(KeyboardInterrupt())
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            GuardedCorrector(corrector, Guard(place(tmp_path), 4)).drafts(["q"] * 3, ["a", "STOP", "b"])
    drafts = GuardedCorrector(corrector, Guard(place(tmp_path), 4)).drafts(["q"] * 3, ["a", "STOP", "b"])
    assert [draft.text for draft in drafts] == ["better a", None, "better b"]


def test_a_killing_response_makes_its_pairs_rejects() -> None:
    def spans(
        _requests: Sequence[str], responses: Sequence[str], ask: Any, _prepare: object = None
    ) -> list[Opinion | None]:
        return [None if "POISON" in text else ask(["q"], [text])[0] for text in responses]

    block = pairs(("p", "0.9 x", "0.1 POISON"), ("p", "0.9 x", "0.1 y"))
    judged, _ = judge_block(block, Bench(Table(), None, spans, None), None, WHOLE)
    decided = decide_block(block, judged, PLAIN, {}, None, WHOLE)
    assert [(r["row"], r["reason"]) for r in decided.rejects.to_pylist()] == [(0, "kills_judge")]
    assert decided.triaged["row"].to_pylist() == [1]
