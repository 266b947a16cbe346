"""The stored training once more, by `trace-ray realign` on Ray as a user starts it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.invariant.laws import hold
from tests.realign import handmade
from trace_ray.config.load import dump_config
from trace_ray.runs.figures import training_figures

SETTINGS = {
    "one worker": ["realign.workers=1"],
    "two workers, a micro-step a pair": ["realign.workers=2", "realign.micro_tokens=1"],
    "two workers at ZeRO 3": ["realign.workers=2", "realign.zero_stage=3"],
}


@pytest.mark.slow
class TestTheCommandLineTrainsAsStored:
    """`trace-ray realign` = the training that was stored, however many workers and whatever the ZeRO stage."""

    @pytest.mark.parametrize("name", list(SETTINGS))
    def test_every_step(self, name: str, tmp_path: Path) -> None:
        config = handmade.tiny_config(handmade.tiny_model(tmp_path / "model"), epochs=4, batch=8, micro_tokens=10**6)
        run = handmade.make_run(tmp_path / "run", config)
        (tmp_path / "law.yaml").write_text(dump_config(config))
        words = ["realign", "-c", str(tmp_path / "law.yaml"), "--run", run.place.path, "ray.local_cpus=4"]
        told = subprocess.run([sys.executable, "-m", "trace_ray.cli", *words, *SETTINGS[name]], text=True, check=False)
        assert told.returncode == 0
        hold("one_worker", training_figures(run))
