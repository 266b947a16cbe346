"""Methods are rows of conf/methods: each is what its paper says."""

from __future__ import annotations

from typing import Any

import pytest

from trace_ray.config.load import load_config
from trace_ray.config.sources import conf_folder
from trace_ray.errors import UserError

DEMO = conf_folder() / "examples" / "demo.yaml"
BOTH = ("chosen", "rejected")
INVERT, NPO, KL, SKIP = ("dpo", "rejected", ("chosen",)), ("npo", "", BOTH), ("kl", "chosen", ()), ()
STAYS = ("dpo", "chosen", ("rejected",))
TABLE: dict[str, tuple[Any, Any, Any, str, str]] = {
    "trace": (INVERT, NPO, KL, "impact", "anchor"),
    "trace_oracle": (INVERT, ("dpo", "corrected", ("chosen",)), KL, "impact", "anchor"),
    "trace_hold_npo": (
        [INVERT, ("sft", "rejected", (), ("weight", 1.0))],
        ("npo_saturating", "", BOTH),
        KL,
        "impact",
        "anchor",
    ),
    "trace_hold": ([INVERT, ("sft", "rejected", (), ("weight", 1.0))], SKIP, KL, "impact", "anchor"),
    "trace_hold_oracle": (
        [INVERT, ("sft", "rejected", (), ("weight", 1.0))],
        [("dpo", "corrected", ("chosen",)), ("sft", "corrected", (), ("weight", 1.0))],
        KL,
        "impact",
        "anchor",
    ),
    "no_triage": (
        ("npo", "", ("rejected",)),
        ("npo", "", ("rejected",)),
        ("npo", "", ("rejected",)),
        "impact",
        "pair",
    ),
    "no_kl": (INVERT, NPO, KL, "impact", "anchor"),
    "no_retain": (INVERT, NPO, SKIP, "impact", "anchor"),
    "no_impact": (INVERT, NPO, KL, "uniform", "anchor"),
    "naive_oracle_dpo": (INVERT, SKIP, STAYS, "uniform", "pair"),
    "dpo_gold": (INVERT, ("dpo", "corrected", ("chosen",)), STAYS, "uniform", "pair"),
    "rdpo": (("rdpo", "rejected", ("chosen",)), SKIP, ("rdpo", "chosen", ("rejected",)), "uniform", "pair"),
    "dpop": (
        ("dpop", "rejected", ("chosen",), ("lambda", 5.0)),
        SKIP,
        ("dpop", "chosen", ("rejected",), ("lambda", 5.0)),
        "uniform",
        "pair",
    ),
    "npo": (("npo", "", ("chosen",)), ("npo", "", ("chosen",)), SKIP, "uniform", "anchor"),
    "simnpo": (("simnpo", "", ("chosen",)), ("simnpo", "", ("chosen",)), SKIP, "uniform", "anchor"),
    "undial": (("undial", "", ("chosen",)), ("undial", "", ("chosen",)), SKIP, "uniform", "anchor"),
    "u2a": (("npo", "", ("chosen",)), NPO, SKIP, "u2a", "anchor"),
}


def test_the_table_is_complete() -> None:
    assert {path.stem for path in (conf_folder() / "methods").glob("*.yaml")} == set(TABLE)


@pytest.mark.parametrize("method", TABLE)
def test_each_method_is_its_row(method: str) -> None:
    objective = load_config([DEMO], method=method).objective
    terms = [
        [(t.loss, t.prefer, t.suppress, *t.parameters.items()) for t in objective.terms(name)]
        for name in ("INVERT", "PUNISH", "RETAIN")
    ]
    *expected, weights, retain = TABLE[method]
    assert terms == [loss if isinstance(loss, list) else [loss] * bool(loss) for loss in expected]
    assert (objective.weights, objective.retain) == (weights, retain)
    assert (objective.alpha_kl == 0) == (method == "no_kl")
    assert objective.method == method
    assert 0 < objective.label_noise < 0.5 if method == "rdpo" else objective.label_noise == 0


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("realign.offload=all", "realign.zero_stage=3"),
        ("realign.tune=full", "frozen_copy or top_k"),
        ("realign.kl_reference=frozen_copy", "needs no second copy"),
        ("impact.parameters=full", "no initial adapter"),
        ("realign.min_workers=2", "at most realign.workers"),
        ("realign.shares={INVRT: 1}", "did you mean 'INVERT'"),
        ("realign.trackers=[tensorbord]", "did you mean 'tensorboard'"),
        ("realign.batch=0", "at least 1 pair"),
        ("realign.gradient_checkpointing=selectiv", "give true, false or selective"),
        ("realign.epsilon=-1", "or 0 to never stop"),
    ],
)
def test_settings_at_odds_are_refused(override: str, said: str) -> None:
    with pytest.raises(UserError, match=r".") as caught:
        load_config([DEMO], [override])
    assert said in str(caught.value)


@pytest.mark.parametrize("category", ["INVERT", "PUNISH"])
def test_a_stored_reference_serves_retain_only(category: str) -> None:
    elsewhere = f"objective.{category}={{loss: kl, prefer: rejected, suppress: []}}"
    with pytest.raises(UserError, match=rf"objective\.{category}\.loss: kl: .*top_k serves a kl on RETAIN only"):
        load_config([DEMO], [elsewhere, "realign.kl_reference=top_k"])
    load_config([DEMO], [elsewhere])
    load_config([DEMO], [elsewhere, "realign.tune=full", "realign.kl_reference=frozen_copy", "impact.parameters=full"])
    load_config([DEMO], ["realign.kl_reference=top_k"])


@pytest.mark.parametrize("zero", sorted(p.stem for p in (conf_folder() / "zero").glob("*.yaml")))
@pytest.mark.parametrize("model", sorted(p.stem for p in (conf_folder() / "models").glob("*.yaml")))
def test_models_and_zero_files_fit_together(model: str, zero: str) -> None:
    files = [conf_folder() / "policies" / "brevity.yaml", conf_folder() / "models" / f"{model}.yaml"]
    config = load_config([*files, conf_folder() / "zero" / f"{zero}.yaml"], method="trace")
    assert config.model.dtype == "bfloat16"
    assert config.realign.workers == (16 if zero.startswith("2x8") else 8)
