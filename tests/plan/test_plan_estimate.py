"""Work, seconds, memory and price of a run, against sums done by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from trace_ray.cluster.capacity import NodeGroup
from trace_ray.config import Config, PlanConfig, RayConfig
from trace_ray.config.load import load_config
from trace_ray.config.sources import conf_folder
from trace_ray.errors import UserError
from trace_ray.plan import estimate as formulas
from trace_ray.plan.asked import Asked, evaluation_asked
from trace_ray.plan.checks import check_cost, check_memory, check_resources, cluster_size
from trace_ray.plan.estimate import estimate, training_gib
from trace_ray.plan.judging import POOL_START_S
from trace_ray.plan.plan import Plan
from trace_ray.plan.rates import EngineRates, Rates, ScoringRates, TrainRates, given, with_given
from trace_ray.plan.show import plan_tables
from trace_ray.plan.stage_row import Resources, StageEstimate, at_once, total
from trace_ray.plan.workload import Prompts, SampledPair, Workload, workload
from trace_ray.runs.artifacts import STAGES

HAVE = Resources(cpus=2, gpus=0)


def config_of(*overrides: str) -> Config:
    files = [conf_folder() / "policies" / "brevity.yaml", conf_folder() / "methods" / "trace.yaml"]
    fixed = ["triage.judge.backend=rules", "evaluate.judge.backend=rules", "impact.gold_size=10", "model.path=m"]
    return load_config(files, [*fixed, *overrides])


def pair(category: str | None, *, test: bool = False, repeated: bool = False) -> SampledPair:
    return SampledPair(
        stands_for=10,
        category=category,
        test=test,
        repeated=repeated,
        prompt=20,
        responses={"chosen": 30, "rejected": 40},
    )


SAMPLE = [
    *[pair("INVERT")] * 2,
    pair("PUNISH"),
    *[pair("RETAIN")] * 5,
    pair("RETAIN", test=True),
    pair("INVERT", test=True, repeated=True),
]


def test_the_work_is_the_sample_times_what_it_stands_for() -> None:
    load = workload(SAMPLE, 110, config_of("impact.retain_per_conflict=1"))
    assert load.trained == {"INVERT": 20, "PUNISH": 10, "RETAIN": 30}
    assert load.refused == 10
    assert load.scored_tokens == 30 * (50 + 60)
    assert load.policy_tokens == 30 * (50 + 60) + 30 * 50
    assert load.reference_tokens == 30 * 50
    assert load.gold_tokens == 2 * 10 * 50
    assert (load.prompts, load.answer_tokens) == (Prompts(number=10, sent=200), 30)


def test_a_selection_takes_half_of_the_held_out_prompts_at_most_from_the_evaluation() -> None:
    for asked, dev in (("4", 4), ("128", 5)):
        load = workload(SAMPLE, 110, config_of("realign.select.steps=4", f"realign.select.prompts={asked}"))
        assert (load.dev, load.prompts.number) == (Prompts(number=dev, sent=20 * dev), 10 - dev)
    assert workload(SAMPLE, 110, config_of("realign.select.prompts=4")).dev == Prompts()


def test_each_candidate_answers_the_dev_prompts_and_is_judged() -> None:
    """200 pairs in steps of 4 are 50 steps: 7 candidates, and the model before training."""
    load = replace(LOAD, dev=Prompts(number=10, sent=300), drift_tokens=40)
    plain, selecting = (estimated(config_of(f"realign.select.steps={n}"), load=load)[2] for n in (0, 8))
    assert selecting.work == f"{plain.work}, 7 candidates on 10 dev prompts"
    assert selecting.tokens - plain.tokens == 8 * 300 + 8 * 10 * 25 + 7 * 2 * 40
    assert plain.seconds is not None
    assert selecting.seconds is not None
    generating, drifting = 2 * (POOL_START_S + 20) + 8 * 10 * 25 / 50, 5 + 7 * 2 * 40 / 400
    assert selecting.seconds - plain.seconds == pytest.approx(generating + drifting + 2 * POOL_START_S)
    asked = evaluation_asked(load, config_of("realign.select.steps=8"))
    assert [(ask.what, ask.pool, ask.prompts) for ask in asked] == [
        ("answers violate?", "evaluate", 200),
        ("dev answers violate?", "select", 80),
    ]


@pytest.mark.parametrize(("pairs", "tokens"), [(128, 60 * 50), (10, 10 * 50), (0, 0)])
def test_drift_reads_retained_pairs_with_both_models(pairs: int, tokens: int) -> None:
    config = config_of(f"evaluate.drift_pairs={pairs}")
    load = workload(SAMPLE, 110, config)
    assert load.drift_tokens == tokens
    without = replace(load, drift_tokens=0)
    took = seconds(config, load=load)["evaluate"] - seconds(config, load=without)["evaluate"]
    assert took == pytest.approx(5 + 2 * tokens / 400 if tokens else 0)


def test_conflicts_that_are_not_trained_on_keep_their_retained_pairs() -> None:
    skipped = ["objective.PUNISH={loss: skip, prefer: '', suppress: []}", "impact.retain_per_conflict=1"]
    assert workload(SAMPLE, 100, config_of(*skipped)).trained == {"INVERT": 20, "PUNISH": 0, "RETAIN": 30}


def test_retained_pairs_are_never_more_than_there_are() -> None:
    assert workload(SAMPLE, 100, config_of("impact.retain_per_conflict=100")).trained["RETAIN"] == 50


def test_a_judge_that_reads_leaves_the_shares_to_the_plan() -> None:
    sample = [pair(None)] * 10
    config = config_of("plan.invert_share=0.2", "plan.punish_share=0.1", "impact.retain_per_conflict=0.5")
    assert workload(sample, 100, config).trained == {"INVERT": 20, "PUNISH": 10, "RETAIN": 15}


def test_pairs_without_a_correction_are_not_trained_on() -> None:
    punish = ["triage.correct=true", "objective.PUNISH={loss: dpo, prefer: corrected, suppress: [chosen]}"]
    corrected = replace(pair("PUNISH"), responses={"chosen": 30, "rejected": 40, "corrected": 10})
    load = workload([pair("PUNISH"), corrected], 20, config_of(*punish))
    assert load.trained["PUNISH"] == 10
    assert load.policy_tokens == 10 * (30 + 50)


def rates_of() -> Rates:
    engine = EngineRates(start_s=20, memory_gib=2, prompt_tokens_s=1000, answer_tokens_s=50)
    train = TrainRates(start_s=5, forward_tokens_s=400, train_tokens_s=100, memory_gib=1, train_gib=3)
    scoring = ScoringRates(tokens_s=160, gold_tokens_s=100, peak_gib=2)
    return Rates(judges={"triage.judge": engine}, policy=engine, train=train, scoring=scoring)


LOAD = Workload(
    rows=1000,
    refused=0,
    trained={"INVERT": 100, "PUNISH": 50, "RETAIN": 50},
    gold_tokens=1000,
    scored_tokens=40_000,
    policy_tokens=60_000,
    reference_tokens=8000,
    prompts=Prompts(number=100, sent=2000),
    attacks=Prompts(),
    answer_tokens=25,
)
ASKED = [
    Asked(judge="triage.judge", what="violates?", pool="judge", prompts=2000, tokens=400_000),
    Asked(judge="evaluate.judge", what="answers violate?", pool="evaluate", prompts=200, tokens=0),
]


def estimated(
    config: Config, have: Resources = HAVE, load: Workload = LOAD, rates: Rates | None = None
) -> list[StageEstimate]:
    return estimate(load, ASKED, rates or rates_of(), config, have)


def seconds(config: Config, have: Resources = HAVE, load: Workload = LOAD) -> dict[str, Any]:
    return {stage.stage: stage.seconds for stage in estimated(config, have, load)}


def test_seconds_are_starts_plus_tokens_over_rates() -> None:
    config = config_of("triage.judge.backend=vllm", "triage.judge.model=j", "impact.shard_rows=100")
    found = seconds(config)
    assert found["triage"] == pytest.approx(formulas.RAY_START_S + 20 + 400)
    work = (1000 / 100 + 40_000 / 160) / 2
    assert found["impact"] == pytest.approx(formulas.IMPACT_STARTS * 5 + work)
    starts = (formulas.TRAINER_STARTS + formulas.EXPORT_STARTS) * 5
    assert found["realign"] == pytest.approx(starts + 60_000 / 100 + 8000 / 400)
    assert found["evaluate"] == pytest.approx(2 * (POOL_START_S + 20) + 200 * 25 / 50 + 3 + 0.02, abs=0.01)


@pytest.mark.parametrize(("backend", "start"), [("rules", 0), ("vllm", POOL_START_S + 20)])
def test_what_code_corrects_starts_no_actors(backend: str, start: float) -> None:
    """A word limit is cut in code, and its verdicts are checked by the judge: of 100 drafts, 50 tokens each."""
    limit = "policy.clauses=[{id: short, rule: {max_words: 50}}]"
    config = config_of(limit, f"triage.judge.backend={backend}", "triage.judge.model=j", "triage.correct=true")
    checked = Asked(judge="triage.judge", what="drafts violate?", pool="correct", prompts=100, tokens=5000)
    rates = rates_of() if backend == "vllm" else replace(rates_of(), judges={})
    without, with_it = (estimate(LOAD, asked, rates, config, HAVE)[0] for asked in (ASKED, [*ASKED, checked]))
    assert without.seconds is not None
    assert with_it.seconds is not None
    work = 100 / 10_000 if backend == "rules" else 5000 / 1000
    assert with_it.seconds - without.seconds == pytest.approx(start + work)


def test_more_workers_take_less_time_and_more_memory() -> None:
    few, many = config_of("realign.epochs=2"), config_of("realign.epochs=2", "realign.workers=4")
    have = Resources(cpus=8, gpus=0)
    assert seconds(few, have)["realign"] - seconds(many, have)["realign"] == pytest.approx(2 * 620 * 3 / 4)
    memory = [estimated(config, have)[2].memory_gib for config in (few, many)]
    assert memory[1] - memory[0] == pytest.approx(9)


def test_u2a_trains_every_round_on_its_pairs_and_scores_all_again_between() -> None:
    load = replace(LOAD, trained={"INVERT": 100, "PUNISH": 100, "RETAIN": 0}, reference_tokens=0)
    u2a = ["objective.weights=u2a", "objective.u2a_pairs=50", "objective.u2a_rounds=3", "realign.epochs=2"]
    _, impact, realign, _ = estimated(config_of(*u2a), load=load)
    trained = 2 * 60_000 * 50 / 200
    assert impact.seconds is not None
    training = formulas.TRAINER_STARTS * 5 + trained / 100
    assert realign.seconds == pytest.approx(formulas.EXPORT_STARTS * 5 + 3 * training + 2 * impact.seconds)
    assert realign.tokens == 3 * trained + 2 * impact.tokens
    assert realign.work == "3 rounds of 50 pairs, 2 epochs, 26 steps"
    few = replace(load, trained={"INVERT": 20, "PUNISH": 0, "RETAIN": 0})
    assert "3 rounds of 20 pairs" in estimated(config_of(*u2a), load=few)[2].work


def test_stored_distributions_cost_one_pass_of_the_reference_however_many_epochs() -> None:
    epochs = ["realign.epochs=3", "impact.shard_rows=100"]
    how = [[], ["realign.kl_reference=top_k"], ["realign.kl_reference=hidden"]]
    again, once, hidden = (estimated(config_of(*epochs, *more))[2] for more in how)
    assert (hidden.seconds, hidden.tokens) == (once.seconds, once.tokens)
    assert hidden.memory_gib < once.memory_gib  # a worker maps them, and holds those of its micro-batch
    starts = (formulas.TRAINER_STARTS + formulas.EXPORT_STARTS) * 5
    assert again.seconds == pytest.approx(starts + 3 * (60_000 / 100 + 8000 / 400))
    assert once.seconds == pytest.approx(starts + 3 * 60_000 / 100 + 5 + 8000 / 400 / 2)
    assert (again.tokens, once.tokens) == (3 * 68_000, 3 * 60_000 + 8000)


def test_every_worker_holds_the_stored_distributions() -> None:
    top_k = ["realign.kl_reference=top_k", "realign.top_k=50", "realign.workers=2"]
    without, stored = (
        estimated(config_of(*top_k), load=replace(LOAD, reference_tokens=tokens))[2].memory_gib for tokens in (0, 8000)
    )
    assert stored - without == pytest.approx(2 * 8000 * 50 * (4 + 4) / 2**30)


# One worker as measured: 1 GiB of Python and 4 of weights; 4 of gradients and 2 of activations while it trains.
MEASURED = replace(rates_of().train, memory_gib=5, train_gib=11, parameters=2**30, trained=2**30)
COPY = "realign.kl_reference=frozen_copy"


@pytest.mark.parametrize(
    ("stage", "workers", "more", "gib"),
    [
        (0, 1, [], 11 + 8),  # two moments
        (1, 2, [], 2 * (11 + 12 / 2)),  # and a flat float32 copy, shared
        (2, 2, [], 2 * (11 + 12 / 2 - 4 / 2)),  # and so are the gradients
        (3, 2, [], 2 * (11 + 8 / 2 - 4 / 2 - 4 / 2)),  # and the weights, which are their own masters
        (3, 16, [], 16 * 5 + (1 + 4 / 16 + 8 / 16 + 4 - 5)),  # each loads all; rank 0 gathers more than it trains
        (3, 2, [COPY], 2 * (11 + 8 / 2 - 4 / 2 - 4 / 2 + 4 / 2)),
        (0, 1, [COPY], 11 + 8 + 4),
        (0, 1, [COPY, "objective.RETAIN={loss: skip, prefer: '', suppress: []}"], 11 + 8),  # not loaded
        (0, 1, ["model.dtype=bfloat16"], 11 + 12),  # (of the same measurement)
        (0, 1, ["realign.whole_checkpoints=true"], 5 + 8 + 4 + 12),  # gradients and activations gone
    ],
)
def test_training_all_weights_holds_gradients_and_moments_as_zero_shares_them(
    stage: int, workers: int, more: list[str], gib: float
) -> None:
    fixed = ["realign.tune=full", "realign.kl_reference=top_k", "realign.whole_checkpoints=false"]
    config = config_of(*fixed, f"realign.zero_stage={stage}", f"realign.workers={workers}", *more)
    assert training_gib(MEASURED, config) == pytest.approx(gib)


def test_the_price_is_of_what_is_reserved() -> None:
    gpu = ["realign.use_gpu=true", "realign.workers=2", "plan.gpu_hour_price=3", "plan.cpu_hour_price=0.5"]
    stage = estimated(config_of(*gpu), Resources(cpus=8, gpus=2))[2]
    assert stage.seconds is not None
    hours = 2 * stage.seconds / 3600
    assert stage.gpu_hours == pytest.approx(hours)
    assert stage.price == pytest.approx(3 * hours + 0.5 * hours)


def test_a_limit_below_the_estimate_is_told_before_the_run() -> None:
    stages = estimated(config_of("plan.cpu_hour_price=0.5"))
    price = sum(stage.price or 0 for stage in stages)
    (problem,) = check_cost(stages, price / 2)
    assert str(problem) == (
        f"ray.max_cost: {price / 2:g}: the estimate is {price:.2f}: raise it, or the run ends before it is done"
    )
    assert list(check_cost(stages, 0)) == list(check_cost(stages, 2 * price)) == []


def test_further_rounds_count_for_the_limit_and_are_told_below_the_table() -> None:
    asked = ["plan.cpu_hour_price=0.5", "rounds.number=3"]
    stages = estimated(config_of(*asked))
    price = sum(stage.price or 0 for stage in stages)
    (problem,) = check_cost(stages, 2 * price, 3)
    assert f"the estimate is {3 * price:.2f}" in str(problem)
    table = plan_tables(Plan([], None, None, stages, 0), config_of(*asked))[-1]
    assert (
        f"rounds.number=3: each further round is about as much again, and its answers\nray.max_cost={6 * price:.3g}"
        in str(table.caption)
    )


def test_no_more_workers_than_fit() -> None:
    assert at_once(10, 1, 0, Resources(cpus=4, gpus=0)) == 4
    assert at_once(10, 1, 0.5, Resources(cpus=64, gpus=2)) == 4
    assert at_once(3, 1, 0, Resources(cpus=64, gpus=0)) == 3
    assert at_once(3, 8, 0, Resources(cpus=4, gpus=0)) == 1


def test_given_rates_replace_measured_ones_and_missing_ones_are_named() -> None:
    config = config_of("plan.train_tokens_s=7000")
    assert with_given(rates_of(), config).train.train_tokens_s == 7000
    assert with_given(rates_of(), config).train.forward_tokens_s == 400
    with pytest.raises(UserError, match=r"give plan\.answer_tokens_s, plan\.forward_tokens_s, or"):
        given(config)


ENDPOINT = ["{0}.judge.backend=openai", "{0}.judge.model=j", "{0}.judge.endpoint.base_url=http://127.0.0.1:1/v1"]


def test_an_endpoints_speed_is_what_is_given_and_else_not_estimated() -> None:
    triage = [setting.format("triage") for setting in ENDPOINT]
    rates = replace(rates_of(), judges={})
    for given_rate, config in ((0.0, config_of(*triage)), (2000.0, config_of(*triage, "plan.judge_tokens_s=2000"))):
        stages = estimated(config, rates=with_given(rates, config))
        figures = (stages[0].seconds, stages[0].cpu_hours, stages[0].price)
        if given_rate:
            assert figures[0] == pytest.approx(formulas.RAY_START_S + 400_000 / given_rate)
        else:
            assert figures == (None, None, None)
        assert stages[0].memory_gib < 2
        assert all(stage.seconds for stage in stages[1:])
        assert total(stages, lambda s: s.seconds) == sum(s.seconds or 0 for s in stages)


def test_an_endpoint_that_judges_the_answers_is_told_apart_from_rules() -> None:
    answers = config_of(*(setting.format("evaluate") for setting in ENDPOINT))
    assert seconds(answers)["evaluate"] is None
    assert seconds(config_of())["evaluate"] is not None


def test_what_the_cluster_lacks_is_said_for_every_stage() -> None:
    config = config_of("realign.workers=4", "realign.use_gpu=true", "impact.num_gpus=0.5", "evaluate.num_cpus=3")
    said = [str(problem) for problem in check_resources(config, STAGES, HAVE)]
    assert [text.split(":")[0] for text in said] == ["impact", "realign", "realign", "evaluate"]
    assert "4 GPU" in said[2]
    assert "plan.gpus" in said[2]
    assert list(check_resources(config, STAGES, Resources(cpus=8, gpus=8))) == []


def sized(*settings: str) -> tuple[RayConfig, PlanConfig]:
    config = config_of(*settings)
    return config.ray, config.plan


def test_the_clusters_size_is_the_manifests_unless_given() -> None:
    groups = [NodeGroup(name="judge", cpus=7, gpus=1, most=4), NodeGroup(name="cpu", cpus=8, gpus=0, most=2)]
    assert cluster_size(*sized(), groups) == Resources(cpus=44, gpus=4)
    assert cluster_size(*sized("plan.cpus=20", "plan.gpus=2"), groups) == Resources(cpus=20, gpus=2)
    assert cluster_size(*sized("ray.local_cpus=3"), []) == Resources(cpus=3, gpus=0)


def test_a_stage_that_does_not_fit_the_memory_is_named() -> None:
    stages = estimated(config_of())
    assert list(check_memory(stages, 64)) == []
    assert [problem.where for problem in check_memory(stages, 7)] == ["realign"]
