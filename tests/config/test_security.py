"""What configuration and models may not do: hold secrets, fetch them, run code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from trace_ray.config import ModelConfig
from trace_ray.config.load import dump_config, load_config
from trace_ray.errors import UserError

BASE = ["policy.text=Be brief."]
SYNTHETIC = Path(__file__).parents[2] / "trace_ray" / "synth" / "models"


@pytest.mark.parametrize(
    "override",
    [
        "triage.judge.engine={hf_token: abcdef}",
        "triage.judge.engine={api_key: abcdef}",
        "storage.endpoint=http://user:hunter2@minio:9000",
        "model.path=hf_abcdefghijklmnopqrstuvwx",
        "policy.text=AKIAABCDEFGHIJKLMNOP",
        "triage.judge.endpoint.base_url=https://judge.example/v1?api-key=hunter2",
        "triage.judge.endpoint.base_url=https://judge.example/v1?v=1&sig=hunter2",
        "evaluate.panel=[{endpoint: {base_url: 'https://judge.example/v1?Token=hunter2'}}]",
    ],
)
def test_a_secret_in_the_configuration_is_refused_without_repeating_it(override: str) -> None:
    with pytest.raises(UserError, match="looks like a secret") as caught:
        load_config([], [*BASE, override])
    assert not [word for word in ("abcdef", "hunter2", "AKIAABC") if word in str(caught.value)]


def test_what_refers_to_the_environment_is_refused_without_repeating_it() -> None:
    with pytest.raises(UserError, match="reads no environment") as caught:
        load_config([], [*BASE, "storage.endpoint=http://user:hunter2@${oc.env:HOST}"])
    assert "hunter2" not in str(caught.value)


def test_a_count_of_tokens_is_no_secret() -> None:
    assert load_config([], [*BASE, "triage.judge.engine={max_num_batched_tokens: 4096}"])
    assert load_config([], [*BASE, "policy.text='Which token? &key is one, ?sort=asc none.'"])


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
    from trace_ray.model.engine import Engine, EngineSettings

    harmless = "{tensor_parallel_size: 2, trust_remote_code: false, distributed_executor_backend: mp}"
    assert load_config([], [*BASE, f"triage.judge.engine={harmless}"])
    with pytest.raises(UserError, match="bring their own code"):  # and whoever builds one without a configuration
        Engine(EngineSettings(model=str(tmp_path), extra=(("trust_remote_code", True),)))


def test_pickled_weights_are_refused_and_never_opened(tmp_path: Path) -> None:
    from trace_ray.model.loading import load_model

    (tmp_path / "config.json").write_bytes((SYNTHETIC / "policy" / "config.json").read_bytes())
    made = tmp_path / "made"
    evil = b"cos\nmkdir\n(V" + str(made).encode() + b"\ntR."
    (tmp_path / "pytorch_model.bin").write_bytes(evil)
    with pytest.raises(UserError, match="no safetensors model there"):
        load_model(ModelConfig(path=str(tmp_path)))
    assert not made.exists()


OWN = """
import os
from transformers import LlamaConfig, LlamaForCausalLM

os.makedirs({made!r}, exist_ok=True)

class Config(LlamaConfig):
    model_type = "own"

class Model(LlamaForCausalLM):
    config_class = Config
"""


def test_a_model_that_brings_its_own_code_is_loaded_only_when_its_name_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the policy with a class of its own: its logits are the policy's, and its export is loaded as it was."""
    import torch

    from trace_ray.model.loading import load_model, load_tokenizer

    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "cache"))
    policy, own, made = SYNTHETIC / "policy", tmp_path / "own", tmp_path / "made"
    shutil.copytree(policy, own)
    config = json.loads((policy / "config.json").read_text()) | {"model_type": "own", "architectures": ["Model"]}
    config["auto_map"] = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    (own / "config.json").write_text(json.dumps(config))
    (own / "own.py").write_text(OWN.format(made=str(made)))

    untrusted = load_config([], [*BASE, f"model.path={own}"]).model
    with pytest.raises(UserError):
        load_model(untrusted)
    assert not made.exists()

    trusted = load_config([], [*BASE, f"model.path={own}", f"model.trust_remote_code={own}"]).model
    model = load_model(trusted)
    assert made.exists()
    assert load_tokenizer(trusted.path, trusted.revision, trusted.trusted)
    probe = torch.tensor([[5, 6, 7, 8]])
    expected = load_model(ModelConfig(path=str(policy)))(probe).logits
    assert torch.equal(model(probe).logits, expected)

    exported = tmp_path / "exported"
    model.save_pretrained(exported)
    assert torch.equal(load_model(trusted.exported_to(str(exported)))(probe).logits, expected)
    with pytest.raises(UserError):
        load_model(untrusted.exported_to(str(exported)))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["model.path=a/b", "model.trust_remote_code=true"], "repeat the model's name, 'a/b'"),
        (["model.path=a/b", "model.trust_remote_code=a/c"], "repeat the model's name, 'a/b'"),
        (["model.path=s3://b/m", "model.trust_remote_code=s3://b/m"], "not read from S3"),
        (["triage.judge.model=a/b", "triage.judge.trust_remote_code=a/c"], "repeat the model's name, 'a/b'"),
        (["model.path=a/b", "triage.judge.model=a/j", "triage.judge.trust_remote_code=a/b"], "'a/j'"),
    ],
)
def test_code_is_trusted_by_one_models_name(asked: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_config([], [*BASE, *asked])


def test_a_judges_code_is_trusted_by_its_name() -> None:
    from trace_ray.judges.vllm_judge import judge_engine_settings

    asked = [*BASE, "triage.judge.backend=vllm", "triage.judge.model=a/j"]
    assert not judge_engine_settings(load_config([], asked).triage.judge).trusted
    assert judge_engine_settings(load_config([], [*asked, "triage.judge.trust_remote_code=a/j"]).triage.judge).trusted
