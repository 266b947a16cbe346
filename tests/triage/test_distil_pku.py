"""The first judge that is made from the dear one, on real pairs; the rules stand in for the dear one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.distilled import PAIRS, POLICIES, Saving, row, saving_of
from tests.support.in_process import triage_in_process
from trace_ray.config.load import load_config
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import locate
from trace_ray.triage.stage import run_triage

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PAIRS.exists(), reason="their licence forbids a copy of PKU's pairs here"),
]


def saving(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Saving:
    """As the benchmark's, in this process."""
    triage_in_process(monkeypatch)
    files, settings = POLICIES[name]
    asked = [*settings, f"corpus.paths=[{PAIRS}]", "triage.judge.backend=rules"]
    config = load_config(files, [*asked, "triage.first_judge.backend=distilled", "triage.distil_pairs=600"])
    run = Run(locate(str(folder / "run"), config.storage))
    run_triage(run, config)
    found = saving_of(run, config)
    print(row(name, found))
    return found


@pytest.mark.parametrize(("name", "least"), [("brevity: a length", 0.6), ("advice: five phrases, anywhere", 0.4)])
def test_of_real_pairs_most_dear_calls_are_saved_and_the_verdicts_are_the_same(
    name: str, least: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = saving(name, tmp_path, monkeypatch)
    assert found.taught["at_least"] >= 0.97
    assert found.saved > least
    assert found.at_least is not None
    assert found.at_least >= 0.97, "beside what it stated, of what it decided afterwards"
    assert found.found >= 0.97


def test_where_too_little_violates_to_show_it_the_dear_judge_is_asked_of_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = saving("no_flat_refusal: stock phrases, rare", tmp_path, monkeypatch)
    assert found.taught["violating"] < found.taught["needed"]
    assert (found.saved, found.alone, found.found) == (0.0, 0, 1.0)
