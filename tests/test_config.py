"""Configuration: strict, one line a mistake."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from trace_ray.config import Config, settings
from trace_ray.config.bounds import BOUNDS
from trace_ray.config.check import check_config, config_problems
from trace_ray.config.load import dump_config, load_config
from trace_ray.config.sources import conf_folder
from trace_ray.errors import UserError
from trace_ray.judges.backends import judge_fingerprint

BASE = ["policy.text=Be brief."]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("realign.zerostage=3", "did you mean 'zero_stage'"),
        ("realign.zero_stage=x", "could not be converted to Integer"),
        ("realign.zero_stage=5", "ZeRO stage: 0, 1, 2 or 3"),
        ("triage.judge.backend=vlm", "did you mean 'vllm'"),
        ("objective.PUNISH={loss: dpo, prefer: corrected, suppress: [chosen]}", "triage.correct=true"),
        ("objective.INVERT.prefer=''", "needs preferred response"),
        ("triage.judge.actors=0", "triage.judge.actors: 0: give at least 1"),
        ("realign.keep_checkpoints=0", "realign.keep_checkpoints: 0: give at least 1"),
        ("evaluate.panel=[{backend: rules, num_gpus: -1}]", "evaluate.panel[0].num_gpus: -1: give at least 0"),
        ("impact.num_gpus=some", "impact.num_gpus: some: give a number of GPUs, a share of one, or auto"),
        ("realign.use_gpu=yes_please", "realign.use_gpu: yes_please: give true, false or auto"),
        ("triage.judge.num_gpus=all", "triage.judge.num_gpus: all: give a number, or auto"),
        ("evaluate.panel=[{backend: openia}]", "evaluate.panel[0].backend: openia: use one of"),
        ("evaluate.panel=[{backend: rules, min_mass: .inf}]", "evaluate.panel[0].min_mass: inf: give a finite"),
        ("realign.shares={INVERT: .nan}", "realign.shares: nan: give a finite"),
        ("triage.judge.backend=rules", "no clause with a rule"),
        (
            "corpus.columns={promt: question}",
            "corpus.columns: promt: name what a format knows (did you mean 'prompt'?)",
        ),
        ("corpus.columns={prompt: a..b}", "corpus.columns.prompt: a..b: give a column's name, or a dotted path"),
        ("corpus.pairs=best_worse", "did you mean 'best_worst'"),
        ("nonsense", "key.path=value"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_do(override: str, said: str) -> None:
    with pytest.raises(UserError, match=r".") as caught:
        load_config([], [*BASE, override])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def changed(config: Config, dotted: str, value: object) -> Config:
    section, name = dotted.split(".")
    return replace(config, **{section: replace(getattr(config, section), **{name: value})})


def test_all_mistakes_are_known_at_once_and_the_first_is_raised() -> None:
    config = load_config([], BASE)
    assert config_problems(config) == []
    wrong = {"model.dtype": "fp16", "realign.learning_rate": math.nan, "realign.workers": 0, "impact.gamma": -1.0}
    for dotted, value in wrong.items():
        config = changed(config, dotted, value)
    problems = config_problems(config)
    assert sorted(problem.where for problem in problems) == sorted(wrong)
    with pytest.raises(UserError) as caught:
        check_config(config)
    assert str(caught.value) == str(problems[0])


def test_a_misspelt_word_is_not_at_odds_with_anything() -> None:
    realign = replace(Config().realign, offload="al", kl_reference="same_weight")
    problems = config_problems(replace(load_config([], BASE), realign=realign))
    assert [problem.where for problem in problems] == ["realign.kl_reference", "realign.offload"]


def test_a_dumped_configuration_loads_to_the_same(tmp_path: Path) -> None:
    config = load_config([], [*BASE, "policy.clauses=[{id: a, rule: {max_words: 50}}]", "lora.target_modules=[a, b]"])
    (tmp_path / "c.yaml").write_text(dump_config(config))
    assert load_config([tmp_path / "c.yaml"]) == config


@pytest.mark.parametrize("path", sorted(conf_folder().glob("examples/*.yaml")), ids=lambda p: p.stem)
def test_every_example_loads(path: Path) -> None:
    assert load_config([path]).policy.name


@pytest.mark.parametrize("method", ["trace", "trace_oracle"])
def test_every_method_loads_over_the_example(method: str) -> None:
    config = load_config([conf_folder() / "examples" / "smollm2_pku_brevity.yaml"], method=method)
    assert config.objective.method == method


def test_an_unknown_method_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'trace'"):
        load_config([], BASE, method="trac")


def test_a_method_takes_the_place_of_the_one_that_a_file_includes(tmp_path: Path) -> None:
    """What the other row alone sets (u2a's batch and rounds, rdpo's label noise) goes with it; the file's own stays."""
    file = tmp_path / "mine.yaml"
    rows = conf_folder() / "methods"
    file.write_text(f"include: [{rows}/rdpo.yaml, {rows}/u2a.yaml]\nobjective: {{tau: 3.0}}\nrealign: {{epochs: 2}}\n")
    config = load_config([file], BASE, method="trace")
    plain = load_config([], [*BASE, "objective.tau=3.0", "realign.epochs=2"], method="trace")
    assert config == plain
    assert load_config([file], BASE).realign.batch == 8
    assert load_config([rows / "u2a.yaml"], BASE, method="trace") == load_config([], BASE, method="trace")


@pytest.mark.parametrize("name", list(BOUNDS))
def test_each_bounded_number_refuses_minus_two(name: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(name)}: -2(.0)?: give"):
        load_config([], [*BASE, f"{name}=-2"])


@pytest.mark.parametrize("where", ["triage.judge", "evaluate"])
@pytest.mark.parametrize(
    ("argument", "counts"),
    [
        ("quantization: awq", True),
        ("hf_overrides: {rope_theta: 1}", True),
        ("max_model_len: 64", True),
        ("tensor_parallel_size: 2", False),
        ("max_num_seqs: 8", False),
    ],
)
def test_of_an_engines_arguments_only_those_of_speed_change_no_result(where: str, argument: str, counts: bool) -> None:
    plain, given = (load_config([], [*BASE, f"{where}.engine={{{text}}}"]) for text in ("", argument))
    assert (settings(plain, "") != settings(given, "")) is counts
    prints = {judge_fingerprint(c.policy, c.triage, c.triage.judge, "") for c in (plain, given)}
    assert (len(prints) == 2) is (counts and where == "triage.judge")
