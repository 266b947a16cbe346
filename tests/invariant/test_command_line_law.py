"""The laws of training once more, by the commands that a user types: triage, impact and realign on Ray, in processes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.invariant.laws import Rows, assert_same, hold
from tests.support.killing import kill_when
from trace_ray.config import StorageConfig
from trace_ray.config.sources import conf_folder
from trace_ray.runs.artifacts import Run
from trace_ray.runs.figures import training_figures
from trace_ray.storage.location import locate
from trace_ray.synth.demo import write_corpus

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

SETTINGS = [
    *("triage.judge.backend=rules", "corpus.limit=120", "impact.gold_size=9", "impact.shard_rows=12"),
    *("realign.learning_rate=1e-4", "realign.batch=8", "realign.max_steps=6", "realign.checkpoint_steps=2"),
    *("realign.trackers=[]", "ray.local_cpus=4"),
]
TWO = ["realign.workers=2", "realign.micro_tokens=1"]
SECONDS = 900.0


class Started:
    """Runs of one corpus, triaged and scored once."""

    def __init__(self, folder: Path) -> None:
        (folder / "corpus").mkdir()
        self.folder = folder
        self.settings = [
            *write_corpus(locate(str(folder / "corpus"), StorageConfig())),
            "triage.judge.model=''",
            *SETTINGS,
        ]
        for stage in ("triage", "impact"):
            subprocess.run(self.command(stage, folder / "scored"), check=True, timeout=SECONDS)
        self.trained: dict[str, Rows] = {}

    def command(self, stage: str, run: Path, *settings: str) -> list[str]:
        words = [stage, "-c", str(conf_folder() / "examples" / "demo.yaml"), "--run", str(run)]
        return [sys.executable, "-m", "trace_ray.cli", *words, *self.settings, *settings]

    def copied(self, name: str) -> Path:
        return Path(shutil.copytree(self.folder / "scored", self.folder / name))

    def train(self, name: str, *settings: str) -> Rows:
        """Returns the figures of `trace-ray realign` with these settings, each step's."""
        if name not in self.trained:
            self.trained[name] = self.finish(self.copied(name), *settings)
        return self.trained[name]

    def finish(self, run: Path, *settings: str) -> Rows:
        subprocess.run(self.command("realign", run, *settings), check=True, timeout=SECONDS)
        return training_figures(Run(locate(str(run), StorageConfig())))


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Started:
    return Started(tmp_path_factory.mktemp("commands"))


class TestTheCommandLineTrainsAsStored:
    """`trace-ray triage`, `impact` and `realign` = the training that was stored."""

    def test_one_worker(self, started: Started) -> None:
        hold("command_line", started.train("one"))


class TestOneWorkerIsTwoIsAResume:
    """1 worker = 2 workers, each pair a micro-step = 1 whose driver was killed and which was begun again."""

    def test_two_workers(self, started: Started) -> None:
        assert_same(started.train("two", *TWO), started.train("one"))

    def test_a_killed_driver(self, started: Started) -> None:
        run = started.copied("killed")
        checkpoints = run / "realign" / "checkpoints"
        kill_when(started.command("realign", run), lambda: any(checkpoints.glob("checkpoint_*/adapter/*")), SECONDS)
        assert not (run / "realign" / "_DONE").exists()
        assert_same(started.finish(run), started.train("one"))


class TestEveryZeroStageIsTheSame:
    """ZeRO 0 = 1 = 2 = 3 on 2 workers."""

    @pytest.mark.parametrize("stage", [1, 2, 3])
    def test_stage(self, started: Started, stage: int) -> None:
        assert_same(started.train(f"zero{stage}", *TWO, f"realign.zero_stage={stage}"), started.train("one"))


class TestUniformWeightsAreNoImpact:
    """objective.weights=uniform = --method no_impact: the same pairs, weights, losses and gradients."""

    def test_every_step(self, started: Started) -> None:
        made = []
        for name, words in (("uniform", ["objective.weights=uniform"]), ("no impact", ["--method", "no_impact"])):
            run = started.copied(name)
            for folder in ("impact", "scored"):
                shutil.rmtree(run / folder)
            (run / "config.yaml").unlink()
            subprocess.run(started.command("impact", run, *words), check=True, timeout=SECONDS)
            made.append(started.finish(run, *words))
        assert_same(*made)
        weights = {value for row in made[0] for name, value in row.items() if name.endswith("/weight")}
        assert weights == {1.0} != {row.get("INVERT/weight", 1.0) for row in started.train("one")}
