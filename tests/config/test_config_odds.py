"""Settings that are each right and at odds with one another: refused by the setting's own line, accepted alone."""

from __future__ import annotations

import numpy as np
import pytest

from trace_ray.config.check import check_needed
from trace_ray.config.load import load_config
from trace_ray.config.sources import conf_folder
from trace_ray.errors import UserError
from trace_ray.triage.categories import categories_N

DEMO = conf_folder() / "examples" / "demo.yaml"


@pytest.mark.parametrize(
    "full",
    [
        ["impact.parameters=full"],
        ["realign.tune=full", "impact.parameters=lora"],
        ["realign.tune=full", "impact.parameters=full"],
    ],
)
def test_u2a_hands_an_adapter_on_and_refuses_full_parameters(full: list[str]) -> None:
    with pytest.raises(UserError, match=r"^objective\.weights: u2a: .*realign\.tune=lora and impact\.parameters=lora"):
        load_config([DEMO], full, method="u2a")
    load_config([DEMO], [], method="u2a")


@pytest.mark.parametrize("judge", ["triage.judge", "evaluate.judge"])
def test_a_pool_may_not_end_below_its_start(judge: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config([DEMO], [f"{judge}.actors=3", f"{judge}.max_actors=2"])
    assert str(caught.value) == f"{judge}.max_actors: 2: give at least {judge}.actors = 3"
    load_config([DEMO], [f"{judge}.actors=3", f"{judge}.max_actors=3"])


def test_an_audit_comes_from_a_file_or_from_labels() -> None:
    labels, stored = "triage.audit_labels=labels.jsonl", "triage.audit_file=run/audit.json"
    with pytest.raises(UserError, match=r"^triage\.audit_file: run/audit\.json: .*or from triage\.audit_labels"):
        load_config([DEMO], [labels, stored])
    for alone in (labels, stored):
        load_config([DEMO], [alone])


@pytest.mark.parametrize(("threshold", "band"), [(0.8, 0.2), (0.2, 0.2), (0.5, 0.4999)])
def test_an_abstain_band_leaves_something_to_decide_by_on_either_side(threshold: float, band: float) -> None:
    """0.8 +- 0.2 reaches 1: of no response could be said that it violates; just below, there is one."""
    settings = [f"triage.threshold={threshold}"]
    if threshold != 0.5:
        with pytest.raises(
            UserError, match=r"^triage\.abstain_band: 0\.2: around triage\.threshold = 0\.[28] .*less than 0\.2$"
        ):
            load_config([DEMO], [*settings, f"triage.abstain_band={band}"])
    config = load_config([DEMO], [*settings, f"triage.abstain_band={band - 0.001}"]).triage
    sure, innocent = np.array([1.0]), np.array([0.0])
    assert categories_N(sure, innocent, config.threshold, config.abstain_band).tolist() == ["INVERT"]


def test_shares_of_a_step_are_not_all_zero() -> None:
    with pytest.raises(UserError, match=r"^realign\.shares: 0: give some category a share above 0"):
        load_config([DEMO], ["realign.shares={INVERT: 0, RETAIN: 0}"])
    load_config([DEMO], ["realign.shares={INVERT: 0, RETAIN: 1}"])


SELECT = "realign.select.steps=10"


def test_a_selection_is_of_the_adapters_of_a_single_training() -> None:
    full = ["realign.tune=full", "impact.parameters=full", "realign.kl_reference=frozen_copy"]
    with pytest.raises(UserError, match=r"^realign\.select\.steps: 10: only adapters .*realign\.tune=lora"):
        load_config([DEMO], [SELECT, *full])
    load_config([DEMO], full)
    with pytest.raises(UserError, match=r"^realign\.select\.steps: 10: u2a trains in rounds"):
        load_config([DEMO], [SELECT], method="u2a")


def test_a_selection_needs_held_out_prompts_and_the_judge_of_the_answers() -> None:
    given = ["corpus.paths=[pairs.jsonl]", "model.path=m"]
    apart = [*given, "corpus.holdout=0.1"]
    with pytest.raises(UserError, match=r"^corpus\.holdout: 0.*: dev prompts are held-out ones"):
        check_needed(load_config([DEMO], [SELECT, *given, "corpus.holdout=0"]), ["realign"])
    check_needed(load_config([DEMO], [SELECT, *apart]), ["realign"])
    judged = "evaluate.judge={backend: vllm, model: ''}"
    with pytest.raises(UserError, match=r"^evaluate\.judge\.model: empty"):
        check_needed(load_config([DEMO], [SELECT, *apart, judged]), ["realign"])
    check_needed(load_config([DEMO], [*apart, judged]), ["realign"])
