"""Each family is right, or refused in one line before triage; and so is each setting that names a model's parts."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.impact.families_check import check_right, settings
from tests.model import families
from trace_ray.config import Config, StorageConfig
from trace_ray.errors import UserError
from trace_ray.impact.preflight import check_model
from trace_ray.pipeline import run_stages
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import locate

SHARED = Path(__file__).parents[3] / "shared" / "cases" / "models"


@pytest.mark.parametrize("family", families.FAMILIES)
def test_a_family_is_scored_and_trained_rightly(family: str, tmp_path: Path) -> None:
    check_right(families.saved(families.make(family), tmp_path))


def architectures() -> dict[str, Callable[[], Any]]:
    """The models of the shared cases, where these are beside the repository."""
    if not SHARED.is_dir():
        return {}
    sys.path.insert(0, str(SHARED))
    from architectures import R  # type: ignore[import-not-found]

    return dict(R)


REFUSED = {
    "muse_glimmer": "no attribute",  # transformers has its configuration alone
    "mistral3_mm": "Unrecognized configuration class",
    "qwen2_5_vl": "Unrecognized configuration class",
}
"""What transformers itself makes no causal language model of; ``test_known`` has what is said of such a folder."""


@pytest.mark.slow  # the families above are of the same kinds, and in the default tests
@pytest.mark.parametrize("name", architectures())
def test_every_architecture_is_right_or_refused(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    make = architectures()[name]
    if name in REFUSED:
        with pytest.raises((AttributeError, ValueError), match=REFUSED[name]):
            make()
        return
    check_right(families.saved(families.lively(make()), tmp_path))


def llama(tmp_path: Path) -> Config:
    return settings(families.saved(families.make("llama"), tmp_path / "model"))


def test_a_head_that_computes_something_else_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anything that a family to come does with its logits."""
    from transformers import LlamaForCausalLM

    config = llama(tmp_path)
    own = LlamaForCausalLM.forward

    def cubed(self: Any, *args: Any, **more: Any) -> Any:
        output = own(self, *args, **more)
        output.logits = output.logits + 0.01 * output.logits**3
        return output

    monkeypatch.setattr(LlamaForCausalLM, "forward", cubed)
    with pytest.raises(
        UserError, match=r"^model\.path: .*LlamaForCausalLM is not supported: log-probs made from hidden"
    ):
        check_model(config)


def test_scores_that_are_not_autograds_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trace_ray.impact.taps import LoraTap

    own = LoraTap.along
    monkeypatch.setattr(LoraTap, "along", lambda self, *args: 1.1 * own(self, *args))
    with pytest.raises(UserError, match=r"^lora\.target_modules: all-linear: impact scores .* off by 1\d%"):
        check_model(llama(tmp_path))


def test_cosine_needs_responses_in_one_row(tmp_path: Path) -> None:
    config = settings(families.saved(families.make("bamba"), tmp_path))
    with pytest.raises(UserError, match=r"^impact\.score_norm: cosine: .*BambaForCausalLM"):
        check_model(replace(config, impact=replace(config.impact, score_norm="cosine")))


@pytest.mark.parametrize("family", ["llama", "gemma3 for images", "bamba"])
def test_all_weights_are_tried_where_all_are_scored(family: str, tmp_path: Path) -> None:
    config = settings(families.saved(families.make(family), tmp_path))
    config = replace(
        config, impact=replace(config.impact, parameters="full"), realign=replace(config.realign, tune="full")
    )
    if family == "bamba":
        with pytest.raises(UserError, match=r"^impact\.parameters: full: .*only linears, embeddings and norms"):
            check_model(config)
    else:
        check_model(config)


def test_a_misspelt_target_stops_a_run_before_triage(tmp_path: Path) -> None:
    """Nothing is begun, so nothing is held against the mended setting."""
    config = llama(tmp_path)
    corpus = tmp_path / "pairs.jsonl"
    corpus.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    config = replace(
        config,
        corpus=replace(config.corpus, paths=(str(corpus),)),
        lora=replace(config.lora, target_modules=("q_proj", "vproj")),
        triage=replace(config.triage, judge=replace(config.triage.judge, backend="rules")),
    )
    run = Run(locate(str(tmp_path / "run"), StorageConfig()))
    told: list[str] = []
    with pytest.raises(UserError, match=r"^lora\.target_modules: vproj: .*did you mean 'v_proj'"):
        run_stages(run, config, ("triage", "impact", "realign"), lambda stage, _state: told.append(stage))
    assert told == []
    assert not (run.place / "triaged").exists()
    assert not (run.place / "config.yaml").exists()
