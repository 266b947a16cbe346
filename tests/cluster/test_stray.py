"""Ray's stray line is kept off standard error, and nothing else is, whoever writes it and however the process ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from trace_ray.cluster.stray import STRAY

WRITES = """
import os, sys
from trace_ray.cluster.stray import without_stray_line
with without_stray_line():
    print("from Python", file=sys.stderr)
    os.write(2, b"core_worker.cc:1: see https://github.com/ray-project/{stray} for more\\n")
    os.write(2, b"from a library\\n\\xff no text\\n")
    {end}
print("after", file=sys.stderr)
os.write(2, b"unended")
"""


def written(end: str = "pass", **environment: str) -> tuple[int, list[bytes]]:
    script = WRITES.format(stray=STRAY, end=end)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=False, env=os.environ | environment
    )
    return done.returncode, sorted(done.stderr.splitlines())


def test_the_line_alone_is_left_out() -> None:
    assert written() == (0, [b"after", b"from Python", b"from a library", b"unended", b"\xff no text"])


def test_the_last_words_of_a_killed_process_come() -> None:
    end = "os.write(2, b'last words'); os.kill(os.getpid(), 9)"
    assert written(end) == (-signal.SIGKILL, [b"from Python", b"from a library", b"last words", b"\xff no text"])


def test_a_process_that_goes_on_writing_holds_nobody_up() -> None:
    reader = "[sys.executable, '-c', 'import sys; sys.stdin.read()']"  # until the process that started it is gone
    code, lines = written(f"import subprocess; held = subprocess.Popen({reader}, stdin=subprocess.PIPE)")
    assert code == 0
    assert b"unended" in lines


def test_who_debugs_sees_it() -> None:
    _, lines = written(TRACE_RAY_DEBUG="1")
    assert sum(STRAY.encode() in line for line in lines) == 1


def test_a_standard_error_that_is_not_the_process_own_stays(capsys: pytest.CaptureFixture[str]) -> None:
    from trace_ray.cluster.stray import without_stray_line

    before = sys.stderr
    with without_stray_line():
        assert sys.stderr is before
        print("seen", file=sys.stderr)
    assert capsys.readouterr().err == "seen\n"


POOL = """
from trace_ray.cluster.connection import ensure_ray
from trace_ray.cluster.stray import without_stray_line
from trace_ray.config import RayConfig

class Same:
    def __call__(self, batch):
        return batch

with without_stray_line():
    ensure_ray(RayConfig(local_cpus=2))
    import ray
    rows = ray.data.range(2).map_batches(Same, concurrency=1, num_cpus=1).take_all()
    assert len(rows) == 2
    ray.shutdown()
"""


@pytest.mark.slow
@pytest.mark.parametrize("debug", [True, False])
def test_a_pool_of_actors_starts_without_it(debug: bool) -> None:
    """Once Ray does not write it even where it is let through, the filter has had its day."""
    environment = os.environ | {"TRACE_RAY_DEBUG": "1" if debug else "0"}
    done = subprocess.run([sys.executable, "-c", POOL], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert (STRAY in done.stderr) == debug
