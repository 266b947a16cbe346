"""How a category's terms are written: one, or a list; what a later file forgets; what an old run's identity is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trace_ray.config import Config
from trace_ray.config.fields import settings
from trace_ray.config.load import dump_config, load_config, load_text
from trace_ray.config.sources import conf_folder
from trace_ray.errors import UserError

DEMO = conf_folder() / "examples" / "demo.yaml"


def terms(category: str, *overrides: str, method: str = "trace", files: tuple[Path, ...] = ()) -> list[Any]:
    objective = load_config([DEMO, *files], overrides, method=method).objective
    return [(t.loss, t.prefer, t.suppress, objective.parameters(t)) for t in objective.terms(category)]


def test_a_list_takes_the_category_s_usual_responses() -> None:
    both = "[{loss: npo, beta: 0.1}, {loss: undial, suppress: [rejected], weight: 0.5}]"
    assert terms("INVERT", "objective.INVERT=[{loss: dpop, lambda: 2}, {loss: sft, weight: 1.0}]") == [
        ("dpop", "rejected", ("chosen",), {"weight": 1.0, "beta": 0.3, "length_norm": False, "lambda": 2}),
        ("sft", "rejected", (), {"weight": 1.0}),
    ]
    npo = {"weight": 1.0, "beta": 0.1, "length_norm": False, "npo_scale": False}
    assert terms("PUNISH", f"objective.PUNISH={both}") == [
        ("npo", "", ("chosen", "rejected"), npo),
        ("undial", "", ("rejected",), {"weight": 0.5, "gamma": 10.0}),
    ]
    corrected = terms("PUNISH", "objective.PUNISH=[{loss: dpo}]", "triage.correct=true")
    assert corrected[0][:3] == ("dpo", "corrected", ("chosen",))
    also = terms("INVERT", "objective.INVERT=[{loss: dpo, also: [{loss: sft, prefer: rejected}]}, {loss: kl}]")
    assert [term[0] for term in also] == ["dpo", "sft", "kl"]
    assert terms("RETAIN", "objective.RETAIN=[{loss: ipo}, {loss: kl}]")[0][:3] == ("ipo", "chosen", ("rejected",))


def test_a_later_layer_that_names_a_loss_forgets_parameters_and_further_terms(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("objective: {INVERT: [{loss: dpop, lambda: 2.0}, {loss: sft}]}\n")
    objective = load_config([DEMO, file], ["objective.INVERT.loss=dpo"]).objective
    assert [t.loss for t in objective.terms("INVERT")] == ["dpo"]
    assert objective.INVERT.parameters == {}
    changed = load_config([DEMO, file], ["objective.INVERT.lambda=3.0"]).objective
    assert [t.loss for t in changed.terms("INVERT")] == ["dpop", "sft"]
    assert changed.INVERT.parameters == {"lambda": 3.0}


def test_what_a_run_stores_reads_back() -> None:
    config = load_config([DEMO], ["objective.INVERT=[{loss: dpop, lambda: 2.0}, {loss: sft, weight: 0.5}]"])
    assert load_text(dump_config(config), "config.yaml") == config


def test_one_term_is_the_setting_that_it_was() -> None:
    """What came later is no setting while it is not used: runs from before stay valid."""
    found = {name: value for name, value in settings(Config().objective, "objective").items() if "INVERT" in name}
    assert found == {
        "objective.INVERT.loss": "dpo",
        "objective.INVERT.prefer": "rejected",
        "objective.INVERT.suppress": "['chosen']",
    }
    assert "impact.weigh_within" not in settings(Config().impact, "impact")
    several = load_config([DEMO], ["objective.INVERT=[{loss: dpo}, {loss: sft}]", "impact.weigh_within=category"])
    assert "sft" in settings(several.objective, "objective")["objective.INVERT.also"]
    assert settings(several.impact, "impact")["impact.weigh_within"] == "category"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("objective.INVERT.loss=dop", r"objective\.INVERT\.loss: dop: use one of .*\(did you mean 'dpop?'\?\)"),
        (
            "objective.INVERT=[{loss: dpo}, {loss: stf}]",
            r"objective\.INVERT\.also\[0\]\.loss: stf: .*did you mean 'sft'",
        ),
        ("objective.INVERT.betta=1.0", r"objective\.INVERT\.betta: 1\.0: unknown setting \(did you mean 'beta'\?\)"),
        ("objective.INVERT.beta=0", r"objective\.INVERT\.beta: 0: give a positive scale"),
        ("objective.INVERT.beta=high", r"objective\.INVERT\.beta: high: give a positive scale"),
        ("objective.INVERT.length_norm=2", r"objective\.INVERT\.length_norm: 2: give true or false"),
        ("objective.INVERT=[{loss: dpo, weight: -1}]", r"objective\.INVERT\.weight: -1: give 0 or more"),
        ("objective.INVERT=[{loss: sft, suppress: [chosen]}]", r"sft takes 0 suppressed"),
        ("objective.INVERT=[{loss: dpo}, {loss: sft, also: [{loss: kl}]}]", "put it into the category's own list"),
        ("objective.PUNISH=[{loss: dpo}]", r"no response is corrected unless triage\.correct=true"),
        ("objective.INVERT=[]", "is a section: give its settings"),
    ],
)
def test_mistakes_in_terms_are_one_line(override: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_config([DEMO], [override])


def test_u2a_s_rounds_take_no_loss_of_single_tokens() -> None:
    with pytest.raises(UserError, match=r"objective\.PUNISH\.loss: undial: u2a's rounds"):
        load_config([DEMO], ["objective.PUNISH=[{loss: undial}]"], method="u2a")
