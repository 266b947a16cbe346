"""Methods are rows of conf/methods: each is what its paper says."""

from __future__ import annotations

from typing import Any

import pytest

from trace_ray.config.load import load_config
from trace_ray.config.sources import conf_folder
from trace_ray.errors import UserError

DEMO = conf_folder() / "examples" / "demo.yaml"
BOTH = ("chosen", "rejected")
TABLE: dict[str, tuple[Any, Any, Any, str, str]] = {
    "trace": (("dpo", "rejected", ("chosen",)), ("npo", "", BOTH), ("kl", "chosen", ()), "impact", "anchor"),
    "trace_oracle": (
        ("dpo", "rejected", ("chosen",)),
        ("dpo", "corrected", ("chosen",)),
        ("kl", "chosen", ()),
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
    "no_kl": (("dpo", "rejected", ("chosen",)), ("npo", "", BOTH), ("skip", "", ()), "impact", "anchor"),
    "no_impact": (("dpo", "rejected", ("chosen",)), ("npo", "", BOTH), ("kl", "chosen", ()), "uniform", "anchor"),
    "naive_oracle_dpo": (
        ("dpo", "rejected", ("chosen",)),
        ("skip", "", ()),
        ("dpo", "chosen", ("rejected",)),
        "uniform",
        "pair",
    ),
    "dpo_gold": (
        ("dpo", "rejected", ("chosen",)),
        ("dpo", "corrected", ("chosen",)),
        ("dpo", "chosen", ("rejected",)),
        "uniform",
        "pair",
    ),
    "rdpo": (
        ("rdpo", "rejected", ("chosen",)),
        ("skip", "", ()),
        ("rdpo", "chosen", ("rejected",)),
        "uniform",
        "pair",
    ),
    "npo": (("npo", "", ("chosen",)), ("npo", "", ("chosen",)), ("skip", "", ()), "uniform", "anchor"),
    "u2a": (("npo", "", ("chosen",)), ("npo", "", BOTH), ("skip", "", ()), "u2a", "anchor"),
}


def test_the_table_is_complete() -> None:
    assert {path.stem for path in (conf_folder() / "methods").glob("*.yaml")} == set(TABLE)


@pytest.mark.parametrize("method", TABLE)
def test_each_method_is_its_row(method: str) -> None:
    objective = load_config([DEMO], method=method).objective
    terms = [(t.loss, t.prefer, t.suppress) for t in (objective.INVERT, objective.PUNISH, objective.RETAIN)]
    assert (*terms, objective.weights, objective.retain) == TABLE[method]
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
        ("realign.epsilon=-1", "or 0 to never stop"),
    ],
)
def test_settings_at_odds_are_refused(override: str, said: str) -> None:
    with pytest.raises(UserError, match=r".") as caught:
        load_config([DEMO], [override])
    assert said in str(caught.value)


@pytest.mark.parametrize("category", ["INVERT", "PUNISH"])
@pytest.mark.parametrize(
    "reference", [["realign.kl_reference=top_k"], ["realign.tune=full", "realign.kl_reference=frozen_copy"]]
)
def test_a_stored_or_copied_reference_serves_retain_only(category: str, reference: list[str]) -> None:
    elsewhere = f"objective.{category}={{loss: kl, prefer: rejected, suppress: []}}"
    with pytest.raises(UserError, match=rf"objective\.{category}\.loss: kl: .*(top_k|frozen_copy) serves RETAIN only"):
        load_config([DEMO], [elsewhere, *reference])
    load_config([DEMO], [elsewhere])
    load_config([DEMO], reference)


@pytest.mark.parametrize("zero", sorted(p.stem for p in (conf_folder() / "zero").glob("*.yaml")))
@pytest.mark.parametrize("model", sorted(p.stem for p in (conf_folder() / "models").glob("*.yaml")))
def test_models_and_zero_files_fit_together(model: str, zero: str) -> None:
    files = [conf_folder() / "policies" / "brevity.yaml", conf_folder() / "models" / f"{model}.yaml"]
    config = load_config([*files, conf_folder() / "zero" / f"{zero}.yaml"], method="trace")
    assert config.model.dtype == "bfloat16"
    assert config.realign.workers == (16 if zero.startswith("2x8") else 8)
