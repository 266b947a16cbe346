"""What a further round is run with, and the mistakes that are met before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from trace_ray.cli.app import app
from trace_ray.config import Config, RoundsConfig, StorageConfig, settings
from trace_ray.config.check import check_config
from trace_ray.config.load import dump_config, load_config, load_text
from trace_ray.errors import UserError
from trace_ray.pairs import TRIAGED_SCHEMA
from trace_ray.rounds.settings import round_config
from trace_ray.runs.artifacts import Run
from trace_ray.runs.rounds import first_round, round_run
from trace_ray.storage.location import locate

RULES = [
    "policy.clauses=[{id: brief, text: Be brief., rule: {max_words: 2}}]",
    "triage.judge.backend=rules",
    "evaluate.judge.backend=rules",
    "corpus.paths=[pairs.jsonl]",
    "model.path=some/model",
]
MISTAKES = [
    (["rounds.number=0"], "rounds.number: 0: give at least 1"),
    (["rounds.temperature=0"], "rounds.temperature: 0.0: give a temperature in (0, 2]"),
    (["rounds.top_p=0"], "rounds.top_p: 0.0: give a probability in (0, 1]"),
    (["rounds.samples=0"], "rounds.samples: 0: give at least 1 answer"),
    (["rounds.prompts=-1"], "rounds.prompts: -1: give a number of prompts"),
    (["rounds.number=2", "corpus.holdout=0"], "corpus.holdout: 0.0: rounds are compared on prompts that none"),
    (
        ["rounds.number=2", "triage.correct=true", "triage.gold_responses=gold.jsonl"],
        "triage.gold_responses: gold.jsonl",
    ),
    (["rounds.numbr=2"], "did you mean 'number'"),
]


def done_run(folder: Path, held_out: int = 3, audit: dict[str, float] | None = None) -> Run:
    """A run whose triage is done."""
    run = Run(locate(str(folder), StorageConfig()))
    run.triaged.begin({})
    run.triaged.publish(
        counts={"train INVERT": 2, "test RETAIN": held_out}, seconds=0.0, schema=TRIAGED_SCHEMA, audit=audit
    )
    return run


@pytest.mark.parametrize(("overrides", "said"), MISTAKES, ids=lambda value: value[0] if isinstance(value, list) else "")
def test_a_mistake_is_one_line_and_exit_code_2(overrides: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_config([], [*RULES, *overrides])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_u2a_has_rounds_of_its_own() -> None:
    with pytest.raises(UserError, match=r"rounds.number: 2: u2a has rounds of its own \(objective.u2a_rounds\)"):
        load_config([], [*RULES, "rounds.number=2"], method="u2a")
    load_config([], RULES, method="u2a")


def test_dawid_skene_needs_three_votes_where_no_label_is_left() -> None:
    panel = ["triage.second_judge={backend: rules}", "triage.combine=dawid_skene", "triage.audit_labels=from_pairs"]
    load_config([], [*RULES, *panel])
    with pytest.raises(UserError, match=r"triage.combine: dawid_skene: no label is of a model's own answers"):
        load_config([], [*RULES, *panel, "rounds.number=2"])
    load_config(
        [], [*RULES, *panel, "rounds.number=2", "triage.third_judge={backend: rules}", "triage.third_asked=all"]
    )


def test_plan_meets_such_a_mistake_before_anything_else(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("rounds: {number: 0}\n")
    result = CliRunner().invoke(app, ["plan", "-c", str(file), *RULES])
    assert result.exit_code == 2
    assert "rounds.number: 0: give at least 1" in result.stderr


def test_a_round_starts_from_the_model_before_it_and_reads_its_answers(tmp_path: Path) -> None:
    run = done_run(tmp_path / "run")
    template = "model.chat_template='{% for m in messages %}{{ m.content }}{% endfor %}'"
    config = load_config(
        [], [*RULES, "rounds.number=3", "rounds.samples=2", "corpus.limit=7", "corpus.holdout=0.2", template]
    )
    for number, before in ((2, tmp_path / "run"), (3, tmp_path / "run" / "rounds" / "2")):
        further = round_config(run, config, number)
        assert further.model.path == f"{before}/model/merged"
        assert further.model.chat_template == "", "the exported tokenizer has it"
        answers = tmp_path / "run" / "rounds" / str(number) / "answers"
        assert further.corpus.paths == (f"{answers}/train",)
        assert further.corpus.test_paths == (f"{answers}/test",)
        assert further.corpus.limit == 0
        assert further.rounds == RoundsConfig(number=1, samples=2)
        check_config(further)
        assert load_text(dump_config(further), "config.yaml") == further


def test_own_prompts_may_be_evaluated_where_nothing_is_held_out(tmp_path: Path) -> None:
    config = load_config([], [*RULES, "rounds.number=2", "corpus.holdout=0", "evaluate.prompt_file=own.jsonl"])
    assert round_config(done_run(tmp_path / "run", held_out=0), config, 2).corpus.test_paths == ()


def test_what_was_fitted_on_the_corpus_pairs_decides_the_rounds_too(tmp_path: Path) -> None:
    run = done_run(tmp_path / "run", audit={"auc": 0.9})
    fitted = ["triage.audit_labels=from_pairs", "triage.calibration=platt", "triage.false_invert_rate=0.1"]
    config = load_config([], [*RULES, *fitted, "rounds.number=2"])
    triage = round_config(run, config, 2).triage
    assert triage.audit_file == f"{tmp_path}/run/triaged/audit.json"
    assert (triage.audit_labels, triage.calibration, triage.false_invert_rate) == ("", "none", 0.0)
    assert triage.max_one_sided == 1.0, "a model that complies throughout is no fault of the judge's"
    plain = load_config([], [*RULES, "triage.audit_file=earlier.json", "rounds.number=2"])
    assert round_config(done_run(tmp_path / "plain"), plain, 2).triage.audit_file == "earlier.json"


def test_corrections_are_drawn_from_the_model_of_the_round(tmp_path: Path) -> None:
    sampled = [
        "triage.correct=true",
        "triage.corrector=sample",
        "triage.corrector_judge={samples: 8}",
        "rounds.number=2",
    ]
    further = round_config(done_run(tmp_path / "run"), load_config([], [*RULES, *sampled]), 2)
    assert further.triage.corrector_judge is not None
    assert further.triage.corrector_judge.model == further.model.path
    assert further.triage.corrector_judge.samples == 8
    check_config(further)


def test_code_of_a_trusted_model_is_trusted_in_its_exported_copy(tmp_path: Path) -> None:
    config = load_config([], [*RULES, "model.trust_remote_code=some/model", "rounds.number=2"])
    assert round_config(done_run(tmp_path / "run"), config, 2).model.trusted


def test_how_many_rounds_there_are_changes_no_result() -> None:
    assert settings(Config(rounds=RoundsConfig(number=3)), "") == settings(Config(), "")


def test_a_round_finds_its_run(tmp_path: Path) -> None:
    run = Run(locate(str(tmp_path), StorageConfig()))
    assert first_round(round_run(run, 12)).place.path == run.place.path
    with pytest.raises(ValueError, match="no further round"):
        first_round(run)
