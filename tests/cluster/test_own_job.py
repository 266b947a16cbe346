"""Which Ray job this process is; that it stops itself is shown on a real cluster by tests/jobs/test_ray_job.py."""

from __future__ import annotations

import pytest

from trace_ray.cluster import own_job


@pytest.mark.parametrize("told", [{}, {"RAY_JOB_CONFIG_JSON_ENV_VAR": ""}, {"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"}])
def test_a_process_of_ones_own_is_no_job(told: dict[str, str]) -> None:
    assert own_job.submission(told) == ""


def test_what_is_no_job_or_was_not_asked_to_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    monkeypatch.setenv(own_job.SETTING, "stop")
    own_job.stop_for_a_mistake()
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", '{"metadata": {"job_submission_id": "x"}}')
    monkeypatch.delenv(own_job.SETTING)
    own_job.stop_for_a_mistake()
