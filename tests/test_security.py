"""What configuration and models may not do: hold secrets, fetch them, run code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trace_ray.config import ModelConfig
from trace_ray.config_load import dump_config, load_config
from trace_ray.errors import UserError

BASE = ["policy.text=Be brief."]


@pytest.mark.parametrize(
    "override",
    [
        "triage.judge.engine={hf_token: abcdef}",
        "triage.judge.engine={api_key: abcdef}",
        "storage.endpoint=http://user:hunter2@minio:9000",
        "model.path=hf_abcdefghijklmnopqrstuvwx",
        "policy.text=AKIAABCDEFGHIJKLMNOP",
    ],
)
def test_a_secret_in_the_configuration_is_refused_without_repeating_it(override: str) -> None:
    with pytest.raises(UserError, match="looks like a secret") as caught:
        load_config([], [*BASE, override])
    assert not [word for word in ("abcdef", "hunter2", "AKIAABC") if word in str(caught.value)]


def test_a_count_of_tokens_is_no_secret() -> None:
    assert load_config([], [*BASE, "triage.judge.engine={max_num_batched_tokens: 4096}"])


def test_the_environment_is_not_read_into_the_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-8c2e")
    file = tmp_path / "c.yaml"
    file.write_text("policy: {text: '${oc.env:AWS_SECRET_ACCESS_KEY}'}\n")
    for files, overrides in (([file], []), ([], ["policy.text=${oc.env:AWS_SECRET_ACCESS_KEY}"])):
        with pytest.raises(UserError, match="reads no environment"):
            load_config(files, overrides)
    assert "planted" not in dump_config(load_config([], BASE))


@pytest.mark.parametrize("text", ["!!python/object/apply:os.mkdir [made]", "!!python/name:os.system ''"])
def test_yaml_and_overrides_run_nothing(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(f"policy: {{text: {text}}}\n")
    with pytest.raises(UserError, match="not yaml"):
        load_config([tmp_path / "c.yaml"])
    with pytest.raises(UserError, match="not yaml"):
        load_config([], [f"policy.text={text}"])
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("where", ["triage.judge", "triage.second_judge", "evaluate.judge", "evaluate"])
@pytest.mark.parametrize(
    ("engine", "said"),
    [
        ("{trust_remote_code: true}", "bring their own code"),
        ("{trust_remote_code: 'yes'}", "bring their own code"),
        ("{worker_cls: evil.Worker}", "bring their own code"),
        ("{distributed_executor_backend: evil.Executor}", "bring their own code"),
        ("{load_format: pt}", "safetensors only"),
    ],
)
def test_an_engine_that_would_run_code_is_refused_before_anything_starts(where: str, engine: str, said: str) -> None:
    judge = [f"{where}.backend=vllm"] if where != "evaluate" else []
    with pytest.raises(UserError, match=said):
        load_config([], [*BASE, *judge, f"{where}.engine={engine}"])


def test_an_engine_that_runs_none_is_not(tmp_path: Path) -> None:
    from trace_ray.inference import Engine, EngineSettings

    harmless = "{tensor_parallel_size: 2, trust_remote_code: false, distributed_executor_backend: mp}"
    assert load_config([], [*BASE, f"triage.judge.engine={harmless}"])
    with pytest.raises(UserError, match="bring their own code"):  # and whoever builds one without a configuration
        Engine(EngineSettings(model=str(tmp_path), extra=(("trust_remote_code", True),)))


def test_pickled_weights_are_refused_and_never_opened(tmp_path: Path) -> None:
    from trace_ray.models import load_model

    source = Path(__file__).parents[1] / "trace_ray" / "synth" / "models" / "policy"
    (tmp_path / "config.json").write_bytes((source / "config.json").read_bytes())
    made = tmp_path / "made"
    evil = b"cos\nmkdir\n(V" + str(made).encode() + b"\ntR."
    (tmp_path / "pytorch_model.bin").write_bytes(evil)
    with pytest.raises(UserError, match="no safetensors model there"):
        load_model(ModelConfig(path=str(tmp_path)))
    assert not made.exists()


def test_a_model_that_brings_its_own_code_is_refused(tmp_path: Path) -> None:
    from trace_ray.models import load_model

    source = Path(__file__).parents[1] / "trace_ray" / "synth" / "models" / "policy"
    config = json.loads((source / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "own.py").write_text(f"import os; os.mkdir({str(tmp_path / 'made')!r})")
    with pytest.raises(UserError):
        load_model(ModelConfig(path=str(tmp_path)))
    assert not (tmp_path / "made").exists()
