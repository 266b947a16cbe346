"""Settings that are each right and at odds with one another: refused by the setting's own line, accepted alone."""

from __future__ import annotations

import pytest

from trace_ray.config_load import conf_folder, load_config
from trace_ray.errors import UserError

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
