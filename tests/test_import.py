"""`import trace_ray` stays light."""

from __future__ import annotations

import subprocess
import sys


def test_import_is_quick_and_free_of_heavy_libraries() -> None:
    code = (
        "import sys, time; t = time.perf_counter(); import trace_ray; seconds = time.perf_counter() - t;"
        "heavy = {'ray', 'torch', 'vllm', 'deepspeed', 'transformers'} & set(sys.modules);"
        "assert not heavy, heavy; assert seconds < 1, seconds"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
