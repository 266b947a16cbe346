"""The names that other programs may build on: there, lazy, and the same objects as at home."""

from __future__ import annotations

import subprocess
import sys

import pytest

import trace_ray
from trace_ray.runs.artifacts import EXPORT, STAGES
from trace_ray.runs.stages import Stage


def test_every_public_name_is_there_and_is_the_one_at_home() -> None:
    from trace_ray.config.load import load_config
    from trace_ray.pipeline import open_run, run_stages

    assert all(getattr(trace_ray, name) for name in trace_ray.__all__)
    assert set(trace_ray.__all__) <= set(dir(trace_ray))
    assert (trace_ray.load_config, trace_ray.open_run, trace_ray.run_stages) == (load_config, open_run, run_stages)
    assert trace_ray.Stage is Stage
    with pytest.raises(AttributeError, match="no attribute 'load_confg'"):
        trace_ray.load_confg  # noqa: B018


def test_a_stage_is_the_word_that_the_command_line_has() -> None:
    assert [stage for stage in Stage if stage != EXPORT] == list(STAGES)


def test_loading_a_configuration_starts_nothing_heavy() -> None:
    code = (
        "import sys; from trace_ray import Stage, load_config; load_config(['policies/brevity']);"
        "assert not {'ray', 'torch', 'vllm', 'deepspeed', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
