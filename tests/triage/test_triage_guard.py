"""What counts as a judge's death and what as an interruption: by the marks, the driver and the nodes in service."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from trace_ray.config import StorageConfig
from trace_ray.errors import UserError
from trace_ray.judges.opinion import Opinion
from trace_ray.model.engine import EngineFailedError
from trace_ray.storage.location import Location, locate
from trace_ray.triage.guard import Guard, Witness, deaths


def place(path: Path) -> Location:
    return locate(str(path), StorageConfig())


def witness(driver: str = "one", node: str = "a", lost: Sequence[str] = ()) -> Witness:
    return Witness(driver, lambda: node, lambda name: name not in lost)


def fails(_requests: Sequence[str], _responses: Sequence[str]) -> list[Opinion]:
    """As a killed process: nothing is caught, nothing written."""
    raise KeyboardInterrupt


def judges(_requests: Sequence[str], responses: Sequence[str]) -> list[Opinion]:
    return [Opinion(0.5)] * len(responses)


def begin(guard: Guard, texts: Sequence[str], times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(KeyboardInterrupt):
            guard.judge(["q"] * len(texts), texts, fails)


def test_blocks_that_were_interrupted_and_finished_are_no_deaths(tmp_path: Path) -> None:
    for block in range(31):
        folder = place(tmp_path / f"block-{block}")
        begin(Guard(folder, 4, witness("earlier")), ["a", "b"])
        assert Guard(folder, 4, witness()).judge(["q"] * 2, ["a", "b"], judges) == [Opinion(0.5)] * 2
    assert deaths(place(tmp_path)) == 0


def test_what_others_are_judging_now_is_no_death(tmp_path: Path) -> None:
    for block in range(5):
        begin(Guard(place(tmp_path / f"block-{block}"), 4, witness(node=str(block))), ["a"])
    assert deaths(place(tmp_path)) == 0


@pytest.mark.parametrize("kind", ["driver", "node"])
def test_a_response_that_two_preemptions_met_is_judged(tmp_path: Path, kind: str) -> None:
    guards = (
        [Guard(place(tmp_path), 1, witness(driver)) for driver in ("first", "second", "third")]
        if kind == "driver"
        else [Guard(place(tmp_path), 1, witness(node=n, lost=lost)) for n, lost in (("a", ""), ("b", "a"), ("c", "ab"))]
    )
    for guard in guards[:2]:
        begin(guard, ["innocent"])
    assert guards[2].judge(["q"], ["innocent"], judges) == [Opinion(0.5)]
    assert deaths(place(tmp_path)) == 0


def test_a_process_that_went_alone_twice_gives_the_response_up(tmp_path: Path) -> None:
    guard = Guard(place(tmp_path), 1, witness())
    begin(guard, ["guilty"], times=2)
    assert guard.judge(["q"], ["guilty"], judges) == [None]
    assert deaths(place(tmp_path)) == 2


def test_a_response_that_takes_the_node_down_each_time_ends_too(tmp_path: Path) -> None:
    nodes = [str(i) for i in range(20)]
    texts, starts = ["a", "b", "c"], 0
    while True:
        guard = Guard(place(tmp_path), 4, witness(node=nodes[starts], lost=nodes[:starts]))
        try:
            found = guard.judge(["q"] * 3, texts, lambda q, r: fails(q, r) if "b" in r else judges(q, r))
            break
        except KeyboardInterrupt:
            starts += 1
    assert found == [Opinion(0.5), None, Opinion(0.5)]
    assert starts == 3 + 8
    assert deaths(place(tmp_path)) == 0


def test_an_engine_that_failed_is_a_death_even_where_its_node_goes_next(tmp_path: Path) -> None:
    def breaks(_requests: Sequence[str], _responses: Sequence[str]) -> list[Opinion]:
        raise EngineFailedError("vLLM failed")

    with pytest.raises(EngineFailedError):
        Guard(place(tmp_path), 4, witness()).judge(["q"] * 2, ["a", "b"], breaks)
    assert deaths(place(tmp_path)) == 1
    asked: list[str] = []
    later = Guard(place(tmp_path), 4, witness("two", "b", lost="a"))
    later.judge(["q"] * 2, ["a", "b"], lambda q, r: asked.append("".join(r)) or judges(q, r))  # type: ignore[func-returns-value]
    assert asked == ["a", "b"]  # cut
    assert deaths(place(tmp_path)) == 1


def test_too_many_deaths_stop_the_judge_before_it_asks_again(tmp_path: Path) -> None:
    def enough() -> None:
        raise UserError("triage.max_judge_deaths", "1 deaths, limit 0", "look at their logs")

    strict = Witness("one", lambda: "a", lambda _node: True, enough)
    begin(Guard(place(tmp_path), 4, strict), ["a"])
    with pytest.raises(UserError, match="max_judge_deaths"):
        Guard(place(tmp_path), 4, strict).judge(["q"], ["a"], lambda *_: pytest.fail("asked again"))


def test_answers_that_are_not_final_are_asked_for_again_and_they_alone(tmp_path: Path) -> None:
    up = False
    asked: list[str] = []

    def ask(_requests: Sequence[str], responses: Sequence[str]) -> list[Opinion]:
        asked.extend(responses)
        failed = Opinion(None, "endpoint 503: busy", final=False)
        return [failed if text == "unlucky" and not up else Opinion(0.5) for text in responses]

    texts = ["a", "unlucky", "b"]
    guard = Guard(place(tmp_path), 2, witness())
    for tries in (1, 2):
        assert [opinion.final for opinion in guard.judge(["q"] * 3, texts, ask) if opinion] == [True, False, True]
        assert asked.count("unlucky") == tries
    up = True
    assert guard.judge(["q"] * 3, texts, ask) == [Opinion(0.5)] * 3
    assert guard.judge(["q"] * 3, texts, ask) == [Opinion(0.5)] * 3
    assert sorted(asked) == ["a", "b", *["unlucky"] * 3]


def test_the_next_span_is_readied_beside_the_one_that_is_judged(tmp_path: Path) -> None:
    """It has begun before the answer to the one before, and has ended before it is asked itself; a failure is no matter."""
    begun = {text: threading.Event() for text in "abcdef"}
    seen: list[tuple[str, str]] = []

    def prepare(_requests: Sequence[str], responses: Sequence[str]) -> None:
        begun[responses[0]].set()
        seen.append(("readied", "".join(responses)))
        if "c" in responses:
            raise ValueError(responses)

    def ask(_requests: Sequence[str], responses: Sequence[str]) -> list[Opinion]:
        following = {"a": "c", "c": "e"}.get(responses[0])
        assert following is None or begun[following].wait(60)
        seen.append(("asked", "".join(responses)))
        return judges(_requests, responses)

    found = Guard(place(tmp_path), 2, witness()).judge(["q"] * 6, list("abcdef"), ask, prepare)
    assert found == [Opinion(0.5)] * 6
    assert [text for what, text in seen if what == "readied"] == ["cd", "ef"]
    assert [text for what, text in seen if what == "asked"] == ["ab", "cd", "ef"]
    assert seen.index(("readied", "ef")) < seen.index(("asked", "ef"))
