"""What is read of the harness' results, and what is said where it is missing."""

from __future__ import annotations

import sys

import pytest

from trace_ray.config import CapabilityConfig, ModelConfig
from trace_ray.errors import UserError
from trace_ray.evaluate.capability import harness_figures, run_harness


def test_metrics_with_and_without_standard_errors() -> None:
    results = {
        "results": {
            "gsm8k": {
                "alias": "gsm8k",
                "exact_match,strict-match": 0.5,
                "exact_match_stderr,strict-match": 0.1,
                "exact_match,none": 0,
                "exact_match_stderr,none": "N/A",
            }
        },
        "n-samples": {"gsm8k": {"original": 200, "effective": 4}},
    }
    assert harness_figures(results) == {
        "results": {
            "gsm8k": {
                "exact_match (strict-match)": {"value": 0.5, "stderr": 0.1},
                "exact_match": {"value": 0.0, "stderr": None},
            }
        },
        "documents": {"gsm8k": 4},
    }


def test_a_missing_extra_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.evaluator", None)
    with pytest.raises(UserError, match=r"trace-ray\[eval\]"):
        run_harness(ModelConfig(path="x"), CapabilityConfig(tasks=("gsm8k",)))
