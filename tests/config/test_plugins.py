"""A separate package's judge, format and tracker, by entry point and by dotted path: the code is that of conf/README.md."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.documents import ROOT, blocks
from trace_ray.config import CorpusConfig, JudgeConfig, StorageConfig
from trace_ray.config.load import load_config
from trace_ray.config.plugins import KINDS, brought
from trace_ray.config.policy import PolicyConfig
from trace_ray.corpus.rows import RejectedRowError, parse_row
from trace_ray.errors import UserError
from trace_ray.judges.backends import make_judge
from trace_ray.realign.trackers import check_trackers, make_trackers
from trace_ray.storage.location import locate

NAMES = {"judges": "repetition = toy_plugin:RepetitionJudge", "formats": "duel = toy_plugin:DUEL"}
NAMES |= {"trackers": "lines = toy_plugin:Lines"}
BASE = ["policy.text=Say nothing twice.", "corpus.paths=[x]", "model.path=m", "triage.judge.model=repetition-1"]


@pytest.fixture(autouse=True)
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package as an installer lays it out: its code, and its metadata with entry points."""
    code = "\n\n".join(block.text for block in blocks(ROOT / "conf/README.md") if block.language == "python")
    (tmp_path / "toy_plugin.py").write_text(code.replace("/tmp/", f"{tmp_path}/"))
    about = tmp_path / "toy_plugin-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-plugin\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("".join(f"[trace_ray.{kind}]\n{line}\n" for kind, line in NAMES.items()))
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    brought.cache_clear()
    yield
    sys.modules.pop("toy_plugin", None)
    brought.cache_clear()


def test_every_kind_has_a_group() -> None:
    assert {kind: list(brought(kind)) for kind in KINDS} == {
        "judges": ["repetition"],
        "formats": ["duel"],
        "trackers": ["lines"],
    }


@pytest.mark.parametrize("name", ["repetition", "toy_plugin:RepetitionJudge"])
def test_a_judge(name: str) -> None:
    config = load_config([], [*BASE, f"triage.judge.backend={name}", "triage.corrector=code"])
    judge = make_judge(PolicyConfig(text="Say nothing twice."), config.triage.judge)
    said = judge.opinions(["q"] * 3, ["a b", "a a", ""])
    assert [opinion.p_violates for opinion in said] == [0, 0.5, None]


@pytest.mark.parametrize("name", ["duel", "toy_plugin:DUEL"])
def test_a_format(name: str) -> None:
    config = load_config([], [*BASE, f"corpus.format={name}"])
    (pair,) = parse_row({"prompt": "q", "answer_a": "worse", "answer_b": "better", "better": 1}, config.corpus)
    assert (pair.chosen, pair.rejected) == ("better", "worse")
    with pytest.raises(RejectedRowError, match="no better"):
        parse_row({"prompt": "q", "answer_a": "worse", "answer_b": "better"}, config.corpus)


@pytest.mark.parametrize("name", ["lines", "toy_plugin:Lines"])
def test_a_tracker_is_told_of_every_step(name: str, tmp_path: Path) -> None:
    config = load_config([], [*BASE, f"realign.trackers=[{name}]"])
    check_trackers(config.realign.trackers)
    place = locate(str(tmp_path / "run"), StorageConfig())
    (tracker,) = make_trackers(config.realign.trackers, place, "runs/first", 3)
    for step in (3, 4):
        tracker.log(step, {"loss": step / 10})
    tracker.flush()
    assert (tmp_path / "runs-first.log").read_text() == "3 loss 0.3000\n4 loss 0.4000\n"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("repetitoin", "use one of 'vllm', 'openai', 'rules'"),
        ("no_such_package:Judge", "cannot be imported here: No module named 'no_such_package'"),
        ("toy_plugin:RepetitonJudge", "did you mean 'RepetitionJudge'"),
    ],
)
def test_a_wrong_name_is_one_line(name: str, said: str) -> None:
    with pytest.raises(UserError) as refused:
        make_judge(PolicyConfig(), load_config([], [*BASE, f"triage.judge.backend={name}"]).triage.judge)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_is_named_as_a_format_is_one() -> None:
    with pytest.raises(UserError, match="it is type, no trace_ray"):
        parse_row({"a": 1}, CorpusConfig(format="toy_plugin:Lines"))


def test_a_judge_of_ours_is_none_of_theirs() -> None:
    assert type(make_judge(PolicyConfig(), JudgeConfig(backend="rules"))).__name__ == "RulesJudge"
