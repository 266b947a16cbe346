"""The shipped judge settings load beside a policy."""

from __future__ import annotations

import pytest

from trace_ray.config.check import triage_judges
from trace_ray.config.load import load_config
from trace_ray.config.sources import conf_folder

SHIPPED = sorted((conf_folder() / "judges").glob("*.yaml"), key=str)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_it_loads(path: object) -> None:
    config = load_config([conf_folder() / "policies" / "contextual_harm.yaml", str(path)])
    assert config.policy.name == "contextual_harm"
    assert ("triage.first_judge" in triage_judges(config.triage)) == (
        str(path).endswith(("cascade.yaml", "guard.yaml", "shieldgemma.yaml", "distilled.yaml"))
    )
