"""A Ray job that ends by a user's mistake stops itself: KubeRay retries failed jobs and leaves stopped ones alone."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Mapping

SETTING = "TRACE_RAY_MISTAKES"
"""Environment variable: ``stop`` = do so. The same job tried again on a new cluster would say the same line once more."""
_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
_PATIENCE_S = 60


def submission(environment: Mapping[str, str]) -> str:
    """Returns the id of the Ray job that this process is the entry point of; empty where it is none.

    >>> submission({"RAY_JOB_CONFIG_JSON_ENV_VAR": '{"metadata": {"job_submission_id": "brevity-1"}}'})
    'brevity-1'
    """
    metadata = json.loads(environment.get(_JOB) or "{}").get("metadata") or {}
    return str(metadata.get("job_submission_id") or "")


def stop_for_a_mistake() -> None:
    """Stops this process' Ray job, where it is asked to and is one, and waits for the signal; else returns."""
    name = submission(os.environ)
    if os.environ.get(SETTING) != "stop" or not name:
        return
    from ray.job_submission import JobSubmissionClient

    try:
        JobSubmissionClient().stop_job(name)
    except (RuntimeError, OSError) as error:  # then it fails, and may be retried
        sys.stderr.write(f"trace-ray: job {name} could not be stopped: {' '.join(str(error).split())[:200]}\n")
        return
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(_PATIENCE_S)
