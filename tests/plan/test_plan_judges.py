"""What judges are asked, and what that takes, against sums done by hand."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from trace_ray.config import Config
from trace_ray.config.load import load_config
from trace_ray.config.sources import conf_folder
from trace_ray.plan import estimate as formulas
from trace_ray.plan.asked import UNSURE, Asked, evaluation_asked, triage_asked
from trace_ray.plan.estimate import estimate
from trace_ray.plan.judges import reading_judges
from trace_ray.plan.judging import POOL_START_S
from trace_ray.plan.measure import _pieces
from trace_ray.plan.plan import Plan
from trace_ray.plan.rates import EngineRates, Rates, ScoringRates, TrainRates, with_given
from trace_ray.plan.reading import Questions
from trace_ray.plan.show import plan_tables
from trace_ray.plan.stage_row import RAY_GIB, Resources, StageEstimate, total
from trace_ray.plan.workload import Prompts, SampledPair, Workload
from trace_ray.runs.artifacts import STAGES

JUDGE = "triage.judge={backend: vllm, model: j, num_cpus: 1}"
FIRST = "triage.first_judge={backend: vllm, model: f}"
SECOND = "triage.second_judge={backend: vllm, model: s}"
WRITER = "triage.corrector_judge={backend: vllm, model: w}"
EVALUATED = "evaluate.judge={backend: vllm, model: e}"
ENDPOINT = "{backend: openai, model: e, endpoint: {base_url: http://127.0.0.1:1/v1}}"


def config_of(*overrides: str) -> Config:
    files = [conf_folder() / "policies" / "brevity.yaml", conf_folder() / "methods" / "trace.yaml"]
    fixed = ["impact.gold_size=10", "model.path=m", "evaluate.judge.backend=rules", "triage.corrector=judge"]
    return load_config(files, [*fixed, JUDGE, *overrides])


# The judge reads a question of 15 tokens around a prompt of 5, the first judge half of each, and so on.
JUDGED = {
    "triage.judge": {"chosen": 50, "rejected": 60, "prompt": 20, "corrected": 24},
    "triage.first_judge": {"chosen": 25, "rejected": 30, "prompt": 10, "corrected": 12},
    "triage.second_judge": {"chosen": 52, "rejected": 62, "prompt": 22, "corrected": 26},
    "triage.corrector_judge": {"chosen": 51, "rejected": 61, "prompt": 21, "corrected": 25},
}
READINGS = {name: Questions(clause=7, correct=9, canaries=4000, canary_prompts=80) for name in JUDGED}


def pair(category: str | None, *names: str) -> SampledPair:
    responses = {"chosen": 30, "rejected": 40} | dict.fromkeys(names, 4)
    return SampledPair(
        stands_for=10, category=category, test=False, repeated=False, prompt=5, responses=responses, judged=JUDGED
    )


SAMPLE = [*[pair("INVERT")] * 2, pair("PUNISH"), *[pair("RETAIN")] * 7]


def readings(config: Config) -> dict[str, Questions]:
    return {name: reading for name, reading in READINGS.items() if name in reading_judges(config)}


def asked(config: Config, sample: list[SampledPair] = SAMPLE) -> dict[tuple[str, str], Asked]:
    return {(ask.judge, ask.what): ask for ask in triage_asked(sample, readings(config), config)}


def figures(ask: Asked) -> tuple[int, int, int]:
    return ask.prompts, ask.tokens, ask.written


def test_one_judge_reads_both_responses_of_every_pair() -> None:
    found = asked(config_of())
    assert set(found) == {("triage.judge", "violates?"), ("triage.judge", "canaries")}
    verdicts = found["triage.judge", "violates?"]
    assert (figures(verdicts), verdicts.bound) == ((200, 100 * 110, 0), "")


def test_after_a_first_judge_the_main_one_is_counted_whole_and_the_bound_is_said() -> None:
    found = asked(config_of(FIRST))
    assert figures(found["triage.first_judge", "violates?"]) == (200, 100 * 55, 0)
    assert figures(found["triage.judge", "violates?"]) == (200, 100 * 110, 0)
    assert found["triage.first_judge", "violates?"].bound == ""
    assert found["triage.judge", "violates?"].bound == UNSURE
    assert UNSURE.startswith("at most")


@pytest.mark.parametrize(("low", "high", "main"), [(0.1, 0.9, False), (0.0, 0.9, True), (0.1, 1.0, True)])
def test_rules_as_first_judge_are_unsure_only_where_the_band_holds_a_0_or_a_1(
    low: float, high: float, main: bool
) -> None:
    rules = ["triage.first_judge={backend: rules}", f"triage.escalate_from={low}", f"triage.escalate_to={high}"]
    found = asked(config_of(*rules))
    assert (("triage.judge", "violates?") in found) is main
    assert (("triage.judge", "canaries") in found) is main
    assert found["triage.first_judge", "violates?"].prompts == 200


def test_a_second_judge_reads_everything_too() -> None:
    second = asked(config_of(SECOND))["triage.second_judge", "violates?"]
    assert (figures(second), second.bound) == ((200, 100 * 114, 0), "")


def test_the_clauses_are_asked_of_what_violates_by_the_first_of_two_judges() -> None:
    found = asked(config_of(SECOND, "triage.clauses=true"))
    # chosen of 20 INVERT; both of 10 PUNISH; at most the rejected of 70 RETAIN
    assert figures(found["triage.judge", "which clauses?"]) == (110, 30 * 57 + 80 * 67, 0)
    assert ("triage.second_judge", "which clauses?") not in found
    assert found["triage.judge", "which clauses?"].bound.startswith("at most")
    assert "shares" not in found["triage.judge", "which clauses?"].bound
    no_clause = config_of("triage.clauses=true", "policy.clauses=[]", EVALUATED)
    assert ("triage.judge", "which clauses?") not in asked(no_clause)


def test_of_a_cascade_whoever_decides_names_the_clauses() -> None:
    found = asked(config_of(FIRST, "triage.clauses=true"))
    assert [judge for judge, what in found if what == "which clauses?"] == ["triage.first_judge", "triage.judge"]


def test_each_clause_is_a_question() -> None:
    config = config_of("triage.clauses=true")
    readings = {name: replace(reading, clause_prompts=3) for name, reading in READINGS.items()}
    found = {(ask.judge, ask.what): ask for ask in triage_asked(SAMPLE, readings, config)}
    assert figures(found["triage.judge", "which clauses?"]) == (3 * 110, 30 * (3 * 50 + 7) + 80 * (3 * 60 + 7), 0)


def test_a_verdict_by_clauses_asks_nothing_else() -> None:
    config = config_of("triage.clauses=true", "triage.judge.verdict_by=clauses")
    readings = {name: replace(reading, clause_prompts=0, verdict_prompts=3) for name, reading in READINGS.items()}
    found = {(ask.judge, ask.what): ask for ask in triage_asked(SAMPLE, readings, config)}
    assert figures(found["triage.judge", "violates?"]) == (600, 100 * 110, 0)
    assert ("triage.judge", "which clauses?") not in found


def test_where_only_a_judge_can_tell_the_plans_shares_decide_and_that_is_said() -> None:
    unknown = [pair(None)] * 10
    shares = ["plan.invert_share=0.3", "plan.punish_share=0.2", "triage.clauses=true", "triage.correct=true"]
    found = asked(config_of(*shares), unknown)
    clauses, drafts = found["triage.judge", "which clauses?"], found["triage.judge", "corrections"]
    assert figures(clauses) == (50 + 70, 50 * 57 + 70 * 67, 0)
    assert drafts.prompts == 20
    assert all("shares as plan.* assumes" in ask.bound for ask in (clauses, drafts))


def test_a_response_too_long_for_the_judge_costs_no_tokens() -> None:
    long = {**JUDGED, "triage.judge": {**JUDGED["triage.judge"], "rejected": 0}}
    found = asked(config_of("triage.clauses=true"), [replace(sampled, judged=long) for sampled in SAMPLE])
    assert found["triage.judge", "violates?"].tokens == 100 * 50
    assert found["triage.judge", "which clauses?"].tokens == 30 * 57


def test_corrections_by_the_judge_are_written_and_then_judged() -> None:
    found = asked(config_of("triage.correct=true", "triage.corrector_tokens=100"))
    drafts, verdicts = found["triage.judge", "corrections"], found["triage.judge", "corrections violate?"]
    assert figures(drafts) == (10, 10 * (50 + 9), 10 * 100)
    assert figures(verdicts) == (10, 10 * (20 + 100), 0)
    assert (drafts.pool, verdicts.pool) == ("correct", "correct")
    assert all(ask.bound.startswith("at most") for ask in (drafts, verdicts))


def test_another_corrector_writes_and_the_cascade_judges() -> None:
    found = asked(config_of(FIRST, SECOND, WRITER, "triage.correct=true", "triage.corrector_tokens=100"))
    assert figures(found["triage.corrector_judge", "corrections"]) == (10, 10 * (51 + 9), 1000)
    assert figures(found["triage.first_judge", "corrections violate?"]) == (10, 10 * 110, 0)
    assert figures(found["triage.judge", "corrections violate?"]) == (10, 10 * 120, 0)
    assert ("triage.judge", "corrections") not in found
    assert ("triage.second_judge", "corrections violate?") not in found


@pytest.mark.parametrize("known", [["triage.corrector=code"], ["triage.gold_responses=gold.jsonl", WRITER]])
def test_corrections_that_are_known_before_are_only_judged(known: list[str]) -> None:
    punished = [pair("PUNISH", "corrected"), pair("PUNISH")]  # of the other one there is no correction
    found = asked(config_of("triage.correct=true", *known), [*punished, *SAMPLE[3:]])
    assert [what for _, what in found] == ["violates?", "canaries", "corrections violate?"]
    verdicts = found["triage.judge", "corrections violate?"]
    assert (figures(verdicts), verdicts.bound) == ((10, 10 * 24, 0), "")


def test_rules_need_no_canary_and_write_nothing() -> None:
    rules = ["triage.judge={backend: rules}", "triage.correct=true", "triage.clauses=true"]
    verdicts = triage_asked([replace(sampled, judged={}) for sampled in SAMPLE], {}, config_of(*rules))
    assert [(ask.what, ask.prompts, ask.tokens) for ask in verdicts][:1] == [("violates?", 200, 0)]
    assert {ask.what for ask in verdicts} == {"violates?", "corrections violate?"}


LOAD = Workload(
    rows=100,
    refused=0,
    trained={"INVERT": 20, "PUNISH": 10, "RETAIN": 30},
    gold_tokens=1000,
    scored_tokens=4000,
    policy_tokens=6000,
    reference_tokens=800,
    prompts=Prompts(number=40, sent=800, read={"evaluate.judge": 2000, "evaluate.panel[0]": 1600}),
    attacks=Prompts(number=30, sent=1500, read={"evaluate.judge": 900}),
    answer_tokens=25,
)
ENGINE = EngineRates(start_s=20, memory_gib=2, prompt_tokens_s=1000, answer_tokens_s=50)
TRAIN = TrainRates(start_s=5, forward_tokens_s=400, train_tokens_s=100, memory_gib=1, train_gib=3)
SCORING = ScoringRates(tokens_s=160, gold_tokens_s=100, peak_gib=2)
FOUR = "num_gpus: 4, engine: {tensor_parallel_size: 4}"
PANEL = f"evaluate.panel=[{{backend: vllm, model: p, num_cpus: 2, {FOUR}}}, {{backend: rules}}]"


def test_the_evaluation_judge_reads_the_policy_prompt_and_answer_of_both_models() -> None:
    answers, attacked = (ask.with_answers(25) for ask in evaluation_asked(LOAD, config_of(EVALUATED)))
    assert figures(answers) == (80, 2 * 2000 + 80 * 25, 0)
    assert figures(attacked) == (60, 2 * 900 + 60 * 25, 0)
    assert (answers.judge, answers.bound, attacked.judge, attacked.bound) == (
        "evaluate.judge",
        "",
        "evaluate.judge",
        "",
    )
    by_rules = [ask.with_answers(25) for ask in evaluation_asked(LOAD, config_of())]
    assert [(ask.prompts, ask.tokens) for ask in by_rules] == [(80, 0), (60, 0)]


@pytest.mark.parametrize(("number", "answers"), [(40, 80), (400, 200)])
def test_a_panel_reads_two_answers_of_each_item_of_an_export(number: int, answers: int) -> None:
    load = replace(LOAD, prompts=Prompts(number=number, sent=1, read={"evaluate.panel[0]": 40 * number}))
    by_panel, rules = [ask for ask in evaluation_asked(load, config_of(PANEL)) if ask.pool == "panel"]
    assert figures(by_panel.with_answers(25)) == (answers, answers * 40 + answers * 25, 0)
    assert (rules.judge, rules.prompts, rules.tokens) == ("evaluate.panel[1]", answers, 0)
    assert by_panel.bound.startswith("at most")


def rates_of(**judges: EngineRates) -> Rates:
    return Rates(
        judges={name.replace("__", "."): judge for name, judge in judges.items()},
        policy=ENGINE,
        train=TRAIN,
        scoring=SCORING,
    )


def stages(config: Config, rates: Rates, have: Resources | None = None) -> dict[str, StageEstimate]:
    questions = [*triage_asked(SAMPLE, readings(config), config), *evaluation_asked(LOAD, config)]
    have = have or Resources(cpus=2, gpus=0)
    return {stage.stage: stage for stage in estimate(LOAD, questions, rates, config, have)}


FAST = replace(ENGINE, start_s=3, memory_gib=1, prompt_tokens_s=5000)


def test_judges_that_take_turns_are_started_twice_and_those_of_one_actor_together() -> None:
    config = config_of(FIRST, SECOND, "triage.judge.max_actors=2")
    rates = rates_of(triage__judge=ENGINE, triage__first_judge=FAST, triage__second_judge=replace(ENGINE, start_s=7))
    triage = stages(config, rates)["triage"]
    # First one actor of each pool looks at what is judged first, then the pool starts. Canaries are each actor's own.
    first = 5500 / 5000 + 4000 / 5000 + 2 * (POOL_START_S + 3)
    strong = (11_000 / 1000 + 11_400 / 1000) / 2 + 4000 / 1000 + 2 * (POOL_START_S + 20 + 7)
    assert triage.seconds == pytest.approx(formulas.RAY_START_S + first + strong)
    assert triage.tokens == 5500 + 11_000 + 11_400 + 4000 + 2 * 4000
    assert triage.memory_gib == pytest.approx(RAY_GIB + 2 * (2 + 2))
    assert triage.work == "100 pairs, at most 840 questions to judges"


def test_corrections_take_actors_of_their_own_after_all_is_judged() -> None:
    correct = ["triage.correct=true", "triage.corrector_tokens=100"]
    writer = replace(ENGINE, start_s=11, memory_gib=6, answer_tokens_s=20)
    rates = rates_of(triage__judge=ENGINE, triage__second_judge=FAST, triage__corrector_judge=writer)
    without, with_them = (stages(config_of(SECOND, WRITER, *more), rates)["triage"] for more in ([], correct))
    assert without.seconds is not None
    # The second judge is not among them.
    drafting = POOL_START_S + 20 + 11 + 600 / 1000 + 1000 / 20 + 1200 / 1000
    assert with_them.seconds == pytest.approx(without.seconds + drafting)
    assert with_them.tokens - without.tokens == 600 + 1000 + 1200
    assert (without.memory_gib, with_them.memory_gib) == pytest.approx((RAY_GIB + 3, RAY_GIB + 8))


def test_the_evaluation_pays_for_its_engine_and_for_its_judges() -> None:
    config = config_of(
        "evaluate.judge={backend: vllm, model: e, num_cpus: 1, num_gpus: 2, max_actors: 3, engine: {tensor_parallel_size: 2}}",
        "evaluate.num_gpus=1",
        "plan.gpu_hour_price=3",
    )
    evaluate = stages(config, rates_of(triage__judge=ENGINE, evaluate__judge=ENGINE), Resources(cpus=64, gpus=4))[
        "evaluate"
    ]
    generating = 2 * (POOL_START_S + 20) + (80 + 60) * 25 / 50
    judging = POOL_START_S + 20 + (6000 + 3300) / 1000 / 2
    assert evaluate.seconds == pytest.approx(generating + judging)
    assert evaluate.gpu_hours == pytest.approx((generating + 2 * 2 * judging) / 3600)
    assert evaluate.price == pytest.approx(3 * (generating + 4 * judging) / 3600)
    assert evaluate.tokens == 2 * (800 + 1500) + 140 * 25 + 6000 + 3300
    assert evaluate.work == "40 prompts and 30 harmful requests, 2 models, 25 tokens an answer"


def test_a_panel_is_a_row_of_its_own_for_each_judge() -> None:
    found = stages(config_of(PANEL), rates_of(triage__judge=ENGINE, **{"evaluate__panel[0]": ENGINE}))
    assert list(found) == ["triage", "impact", "realign", "evaluate", "evaluate.panel[0]", "evaluate.panel[1]"]
    model = found["evaluate.panel[0]"]
    assert model.seconds == pytest.approx(formulas.RAY_START_S + 20 + (80 * 40 + 80 * 25) / 1000)
    assert model.gpu_hours == pytest.approx(4 * (formulas.RAY_START_S + 20 + 5.2) / 3600)
    assert model.work == "after the run, by rate panel, at most 80 questions to judges"
    assert found["evaluate.panel[1]"].tokens == 0


def test_every_judges_speed_may_be_given_and_an_endpoint_without_one_leaves_its_stage_without_time() -> None:
    endpoint = "triage.second_judge=" + ENDPOINT
    rates = rates_of(triage__judge=ENGINE)
    unknown = config_of(endpoint)
    assert stages(unknown, with_given(rates, unknown))["triage"].seconds is None
    known = config_of(endpoint, "plan.judge_tokens_s=2000")
    found = with_given(rates, known).judges
    assert {name: reading.prompt_tokens_s for name, reading in found.items()} == dict.fromkeys(
        ["triage.judge", "triage.second_judge"], 2000
    )
    writes = with_given(rates, config_of("plan.answer_tokens_s=40")).judges["triage.judge"]
    assert (writes.answer_tokens_s, writes.prompt_tokens_s) == (40, 1000)
    triage = stages(known, with_given(rates, known))["triage"]
    assert triage.seconds == pytest.approx(formulas.RAY_START_S + 20 + (11_000 + 11_400 + 4000) / 2000)


def test_every_engine_that_is_used_is_measured() -> None:
    unused = config_of(FIRST, "triage.second_judge=" + ENDPOINT, WRITER, PANEL)  # nothing is corrected
    assert _pieces(unused, STAGES) == [
        "train",
        "scoring",
        "policy",
        "triage.judge",
        "triage.first_judge",
        "evaluate.panel[0]",
    ]
    assert _pieces(unused, ["triage"]) == ["triage.judge", "triage.first_judge"]


def shown(config: Config, rates: Rates) -> str:
    console = Console(width=200, file=io.StringIO(), record=True)
    made = Plan([], LOAD, rates, list(stages(config, rates).values()), 10)
    for table in plan_tables(made, config):
        console.print(table)
    return console.export_text()


def test_with_prices_the_plan_says_what_to_set_the_limit_to() -> None:
    config = config_of("plan.cpu_hour_price=0.5")
    price = total(list(stages(config, rates_of()).values()), lambda stage: stage.price)
    assert f"ray.max_cost={2 * price:.3g} would end the run at twice this price" in shown(config, rates_of())
    assert "ray.max_cost" not in shown(config_of(), rates_of())


def test_a_writing_endpoint_needs_the_speed_of_its_answers_too() -> None:
    endpoint = ["triage.correct=true", "triage.corrector_judge=" + ENDPOINT]
    for given, missing in (
        ([], "triage: not estimated: set plan.judge_tokens_s and plan.answer_tokens_s"),
        (["plan.judge_tokens_s=2000"], "triage: not estimated: set plan.answer_tokens_s"),
        (["plan.judge_tokens_s=2000", "plan.answer_tokens_s=40"], ""),
    ):
        config = config_of(*endpoint, *given)
        text = " ".join(shown(config, with_given(rates_of(triage__judge=ENGINE), config)).split())
        assert (missing in text) if missing else ("not estimated" not in text)


def test_the_table_says_what_the_plan_leaves_out() -> None:
    config = config_of("evaluate.capability.tasks=[mmlu, gsm8k]")
    text = " ".join(shown(config, rates_of(triage__judge=ENGINE)).split())
    assert "evaluate: without mmlu, gsm8k, whose work is not estimated" in text
    assert "without" not in shown(config_of(), rates_of(triage__judge=ENGINE))


def test_the_table_says_what_is_only_bounded() -> None:
    config = config_of(FIRST, "triage.clauses=true", "triage.correct=true")
    lines = shown(config, rates_of(triage__judge=ENGINE, triage__first_judge=FAST)).splitlines()

    def line(judge: str, what: str) -> str:
        return next(text for text in lines if judge in text and what in text)

    assert "expected" in line("triage.first_judge", "violates?")
    assert UNSURE in line("triage.judge ", " violates?")
    assert "at most" in line("triage.judge", "which clauses?")
    assert "at most" in line("triage.judge", "corrections ")
    assert "11,000" in line("triage.judge ", " violates?")
