"""The report's look at all rows: right by plain loops, the same in any grouping, each part read once."""

from __future__ import annotations

import pickle
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.report.made_run import config_of
from tests.report.survey_oracle import (
    ERRORS,
    SIDES,
    broken,
    counts,
    heaviest,
    labelled,
    most_alike,
    random_run,
    sampled,
    weights,
)
from trace_ray.pairs import CONFLICTS
from trace_ray.report.redact import error_kind, error_kinds
from trace_ray.report.sections.browser import browser_section
from trace_ray.report.sections.clauses import broken_by_clause
from trace_ray.report.sections.funnel import funnel
from trace_ray.report.sections.gap import gap_section
from trace_ray.report.sections.impact import effective_size, head_share, impact_section
from trace_ray.report.sections.problems import problems_section
from trace_ray.report.stage import by_parts
from trace_ray.report.survey import values as sketch
from trace_ray.report.survey.scored import Scored, Sought, survey_scored
from trace_ray.report.survey.shown import places_of
from trace_ray.report.survey.sums import Sums
from trace_ray.report.survey.surveys import surveys
from trace_ray.report.survey.triaged import Asked, Triaged, survey_triaged
from trace_ray.report.survey.values import MOST, Values, values_of
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import Location

CONFIG = config_of("report.sample=17", "report.top_pairs=9")
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module", params=[False, True], ids=["weights stored", "weights by rule"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Rows, Rows]:
    """A run, its triaged rows and its scored ones."""
    run = random_run(tmp_path_factory.mktemp("run"), seed=3 + request.param, rule=request.param)
    return run, run.triaged.read().to_pylist(), run.scored.read().to_pylist()


def same(one: Any, other: Any) -> bool:
    """Values are arrays, which have no one truth."""
    if isinstance(one, Scored):
        spreads = [(getattr(one, name), getattr(other, name)) for name in ("impacts", "weights")]
        alike = all(a.keys() == b.keys() and all(same(a[key], b[key]) for key in a) for a, b in spreads)
        return alike and _plain(one) == _plain(other)
    if isinstance(one, Values):
        parts = [(getattr(one, name), getattr(other, name)) for name in ("numbers", "counts")]
        return one.digits == other.digits and all(np.array_equal(a, b) for a, b in parts)
    return bool(one == other)


def _plain(scored: Scored) -> Scored:
    return replace(scored, impacts=Sums(), weights=Sums())


def test_the_counts_are_those_of_a_loop_over_the_rows(made: tuple[Run, Rows, Rows]) -> None:
    run, rows, _ = made
    labels = labelled(rows)
    seen = survey_triaged(run, Asked(0.5, 17, labels), run.triaged.manifest()["parts"])
    wanted = counts(rows, 0.5)
    for name in ("counts", "verdicts", "certainty", "errors"):
        assert getattr(seen, name) == wanted[name], name
    assert seen.clauses.counts == wanted["clauses"]
    mine = [(clause, row) for row in rows if row["pair_id"] in labels for clause in broken(row)]
    assert seen.clauses.labelled == Counter(clause for clause, _ in mine)
    right = [clause for clause, row in mine if labels[row["pair_id"]] == row["category"]]
    assert seen.clauses.agreed == Counter(right) != seen.clauses.labelled
    first = {error_kind(row["judge_error"]): row["judge_error"] for row in reversed(rows) if row["judge_error"]}
    assert {kind: said[-1] for kind, (said,) in seen.said.kept.items()} == first


def test_the_sections_say_what_the_rows_hold(made: tuple[Run, Rows, Rows]) -> None:
    run, rows, scored = made
    seen = surveys(run, CONFIG)
    gap = gap_section(run, seen)
    assert gap is not None
    assert {group.name: dict(group.counts) for group in gap.by_source} == {
        source: Counter(row["category"] for row in rows if row["source"] == source) for source in ("a", "b", "<b>")
    }
    per_clause = Counter((clause, row["category"]) for row in rows for clause in broken(row))
    assert {(group.name, kind): n for group in gap.by_clause for kind, n in group.counts.items()} == per_clause
    impact = impact_section(run, seen, CONFIG.objective)
    assert impact is not None
    for name in CONFLICTS:
        found = impact.weights[name]
        assert np.repeat(found.numbers, found.counts).tolist() == pytest.approx(weights(scored, name))
        assert impact.impacts[name].digits == sketch.EXACT
    every = np.array([row["weight"] for row in scored if row["category"] in CONFLICTS])
    assert (impact.pairs, impact.clamped) == (len(every), int((every <= 0).sum()))
    assert impact.effective == pytest.approx(every.sum() ** 2 / (every**2).sum())
    assert impact.head_share == pytest.approx(100 * np.sort(every)[::-1][: round(len(every) / 10)].sum() / every.sum())
    trained = [step for step in funnel(run, gap, seen) if step.name == "Conflicts to train on"]
    assert [step.pairs for step in trained] == [int((every > 0).sum())]


def test_the_pairs_shown_are_the_lowest_ids_of_every_kind_the_heaviest_and_the_most_alike(
    made: tuple[Run, Rows, Rows],
) -> None:
    run, rows, scored = made
    seen = surveys(run, CONFIG)
    browser, impact = browser_section(run, seen, CONFIG, 0.5), impact_section(run, seen, CONFIG.objective)
    assert browser is not None
    assert impact is not None
    alike = most_alike(scored, 5)
    assert impact.alike == alike
    assert len(alike) == 5
    wanted = {*sampled(rows, 17), *heaviest(scored, "weight", 9), *(pair_id for pair_id, _ in alike)}
    assert len(browser.pairs) == len(wanted) > 17
    assert {pair.pair_id for pair in browser.pairs} == wanted
    by_id = {row["pair_id"]: row for row in rows}
    figures = {row["pair_id"]: (row["weight"], row["impact"]) for row in scored}
    for pair in browser.pairs:
        row = by_id[pair.pair_id]
        assert (pair.category, pair.source, pair.split) == (row["category"], row["source"], row["split"])
        assert {name: text.text for name, text in pair.responses.items() if text} == {side: row[side] for side in SIDES}
        assert list(pair.clauses) == sorted(broken(row))
        assert (pair.weight, pair.impact) == figures.get(pair.pair_id, (None, None))


def test_a_clause_shows_its_first_conflicts(made: tuple[Run, Rows, Rows]) -> None:
    run, rows, _ = made
    seen = surveys(run, CONFIG)
    assert seen.clauses is not None
    for clause, found in broken_by_clause(seen.clauses, seen.rows).items():
        mine = [(row, broken(row)[clause]) for row in rows if clause in broken(row) and row["category"] in CONFLICTS]
        other = [entry for entry in mine if entry[0]["category"] != mine[0][0]["category"]]
        shown = [(example["pair_id"], example["side"]) for example in found.examples]
        assert shown == [(row["pair_id"], sides[0]) for row, sides in (mine[0], *(other or mine[1:])[:1])]


def test_rules_tell_of_clauses_where_triage_named_none(tmp_path: Path) -> None:
    run = random_run(tmp_path, seed=5, rule=False)
    for part in run.triaged.parts():
        table = part.read_parquet()
        part.write_parquet(table.drop_columns([n for n in table.column_names if n.startswith("clauses")]))
    policy = config_of("policy.clauses=[{id: brief, text: b, rule: {max_words: 5}}, {id: kind, text: k}]")
    seen, rows = surveys(run, policy), run.triaged.read().to_pylist()
    long = [row for row in rows if any(len(row[side].split()) > 5 for side in SIDES)]
    assert seen.clauses is not None
    assert seen.by_rules
    assert seen.clauses.counts == Counter(("brief", row["split"], row["category"]) for row in long)


def test_refused_rows_are_counted_with_the_first_of_each(made: tuple[Run, Rows, Rows]) -> None:
    run, _, _ = made
    places = [*run.rejects.parts(), *(run.impact.place / "refused").files(".parquet")]
    rows = [row for place in places for row in place.read_parquet().to_pylist()]
    found = problems_section(run, surveys(run, CONFIG), "none").refused
    assert {(r.stage, r.reason): r.rows for r in found} == Counter((row["stage"], row["reason"]) for row in rows)
    assert [r.rows for r in found] == sorted((r.rows for r in found), reverse=True)
    assert all(len(r.examples) == min(3, r.rows) for r in found)
    said = {(row["stage"], row["reason"], row["detail"]) for row in rows}
    assert all((r.stage, r.reason, text.text) in said for r in found for _, _, text in r.examples if text)


@pytest.mark.parametrize("seed", range(3))
def test_surveys_of_any_groups_in_any_order_add_up_to_the_same(made: tuple[Run, Rows, Rows], seed: int) -> None:
    run, rows, _ = made
    draw = random.Random(seed)
    sought = Sought(CONFLICTS, "weight", 9, sampled(rows, 17), run.scored.manifest().get("weights"))
    asked = Asked(0.5, 17, labelled(rows))
    looks: list[tuple[Callable[[Sequence[str]], Any], list[str], Any]] = [
        (lambda names: survey_triaged(run, asked, names), run.triaged.manifest()["parts"], Triaged()),
        (lambda names: survey_scored(run, sought, names), run.scored.manifest()["parts"], Scored()),
    ]
    for look, names, nothing in looks:
        mixed = draw.sample(names, len(names))
        cuts = sorted(draw.choices(range(len(names) + 1), k=3))
        groups = [mixed[a:b] for a, b in zip([0, *cuts], [*cuts, len(names)], strict=True)]
        one, two, three, four = map(look, groups)
        for total in (one + two + three + four, one + (two + (three + four)), (four + two) + (one + three)):
            assert same(total, look(names))
            assert same(total + nothing, nothing + total)


def test_groups_of_parts_that_were_sent_away_see_the_same(
    made: tuple[Run, Rows, Rows], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Ray's tasks do, which have only what can be pickled, and hand back what they like first."""
    run, _, _ = made
    sent: list[int] = []

    def by_tasks(function: Callable[..., Any], first: Sequence[Any], *shared: Any) -> list[Any]:
        sent.append(len(first))
        calls = [pickle.dumps((function, item, *shared)) for item in first]
        seen = [(call[0](*call[1:])) for call in map(pickle.loads, reversed(calls))]
        return [pickle.loads(pickle.dumps(value)) for value in seen]

    monkeypatch.setattr("trace_ray.cluster.tasks.by_tasks", by_tasks)
    away, here = surveys(run, CONFIG, by_parts), surveys(run, CONFIG)
    assert len(sent) == 5
    assert max(sent) > 1
    assert same(away.scored, here.scored)
    assert replace(away, scored=None) == replace(here, scored=None)


def test_each_part_is_read_once_and_texts_of_what_is_shown_once_more(
    made: tuple[Run, Rows, Rows], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _, _ = made
    read: Counter[str] = Counter()
    texts: Counter[str] = Counter()
    original = Location.read_parquet

    def counted(place: Location, columns: Sequence[str] | None = None, younger: Sequence[str] = ()) -> pa.Table:
        assert columns is not None, "every column of a part"
        (texts if {"prompt", *SIDES} & set(columns) else read)[place.path] += 1
        return original(place, columns, younger)

    monkeypatch.setattr(Location, "read_parquet", counted)
    wide = config_of("report.sample=100", "report.top_pairs=9")
    for config in (wide, CONFIG):
        seen = surveys(run, config)
        sampled_in = {part for part, _ in seen.browsed}
        triaged = {name: read.pop((run.triaged.place / name).path) for name in run.triaged.manifest()["parts"]}
        assert all(1 <= times <= 2 for times in triaged.values()), "once, and the ids of heavy pairs' parts once more"
        assert set(texts.values()) == {1}
        assert len(texts) <= len(sampled_in) + 6
        assert set(read.values()) == {1}, "scored and refused rows"
        read.clear()
        texts.clear()


def test_ids_are_looked_for_in_the_parts_that_the_shards_name(
    made: tuple[Run, Rows, Rows], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _, _ = made
    asked: list[list[str]] = []
    original = places_of

    def told(run: Run, ids: Sequence[str], names: Sequence[str]) -> Any:
        asked.append(list(names))
        return original(run, ids, names)

    monkeypatch.setattr("trace_ray.report.survey.surveys.places_of", told)
    surveys(run, config_of("report.sample=0", "report.top_pairs=1"))
    assert [len(names) for names in asked] == [1]


def test_a_run_of_no_pair_is_surveyed(tmp_path: Path) -> None:
    run = random_run(tmp_path, seed=1, rule=True)
    empty = run.triaged.place / "part-000.parquet"
    for name, place in ((artifact.name, part) for artifact in (run.triaged, run.scored) for part in artifact.parts()):
        source = empty.read_parquet() if name == "triaged" else place.read_parquet().slice(0, 0)
        place.write_parquet(source)
    seen = surveys(run, CONFIG)
    assert seen.triaged is not None
    assert seen.triaged.pairs == 0
    assert (seen.browsed, seen.figures, seen.by_rules) == ([], {}, True)


def test_errors_kinds_are_those_of_each_error() -> None:
    said = [*ERRORS, "rejected: x;y", "chosen: ", "", ": a", "chosen: rejected: both", "a\nb: c\nd; e"]
    assert error_kinds(pa.array(said)).to_pylist() == list(map(error_kind, said))


@pytest.mark.parametrize("most", [MOST, 40])
def test_many_numbers_are_held_in_little_memory(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut to what there is room for: the same in whatever parts and order, never off by more than the digits say."""
    monkeypatch.setattr(sketch, "MOST", most)
    generator = np.random.default_rng(0)
    numbers = np.concatenate([generator.normal(0, 3, 300), np.repeat([0.0, 2.0], 40), [-0.0, np.nan]])
    whole = values_of(numbers)
    known = np.sort(numbers[~np.isnan(numbers)])
    assert (len(whole), whole.upto(0.0)) == (len(known), int((known <= 0).sum()))
    assert len(whole.numbers) <= most
    held = np.repeat(whole.numbers, whole.counts)
    assert np.all(np.abs(held - known) <= np.abs(known) * 2.0**-whole.digits)
    assert (whole.digits == sketch.EXACT) == (most == MOST)
    for seed in range(3):
        mixed = np.random.default_rng(seed).permutation(numbers)
        a, b, c = (values_of(part) for part in np.split(mixed, [17, 200]))
        assert same((a + b) + c, whole)
        assert same(c + (b + a), whole)


def test_shares_of_weight_are_those_of_the_sorted_weights() -> None:
    weights = np.random.default_rng(1).gamma(0.3, size=1000)
    found, ordered = values_of(weights), np.sort(weights)[::-1]
    assert head_share(found) == pytest.approx(100 * ordered[:100].sum() / ordered.sum())
    assert effective_size(found) == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
    assert found.quantile(0.5) == ordered[::-1][499]
