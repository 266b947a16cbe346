"""`trace-ray plan` over each example and the manifests that it is for: every bundle lands on its group, or is one line."""

from __future__ import annotations

import functools
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

from tests.clusters.documents import CLUSTERS, RAY_KINDS, base, built, of_kind
from trace_ray.cluster.capacity import shortages
from trace_ray.config.check import unfilled
from trace_ray.config.load import load_config
from trace_ray.config.sources import conf_folder, shipped_names
from trace_ray.corpus.folders import data_names, of_split
from trace_ray.plan.manifest import groups_of
from trace_ray.plan.plan import make_plan

MANIFESTS = {
    "kuberay_cpu": ("base/cpu-cluster", "base/cpu-job"),
    "kuberay_gpu": ("base/gpu-cluster", "base/gpu-job", "overlays/eks", "overlays/gke", "overlays/aks"),
    "8xh100_llama_1m": ("overlays/h100-8x",),
    "2x8h100_llama": ("overlays/2x8-trainer", "overlays/kueue"),
}
PAIRS = [pytest.param(name, where, id=f"{name}: {where}") for name, places in MANIFESTS.items() for where in places]


@functools.cache
def manifest(where: str) -> str:
    folder, _, name = where.partition("/")
    objects = [d for file, d in base() if file == name] if folder == "base" else built(CLUSTERS / where)
    return str(yaml.safe_dump_all(of_kind(list(objects), *RAY_KINDS)))


def planned(example: str, where: str, folder: Path, *words: str) -> list[str]:
    """The problems that the plan names, but for what the reader has to fill in."""
    (folder / "cluster.yaml").write_text(manifest(where))
    config = load_config([f"examples/{example}"], [f"plan.manifest={folder / 'cluster.yaml'}", *words])
    blank = [str(problem) for problem in unfilled(config)]
    found = [str(problem) for problem in make_plan(config, None).problems]
    assert blank, "it would go on to look for the models"
    assert found[len(found) - len(blank) :] == blank
    return found[: len(found) - len(blank)]


def test_every_example_that_names_a_cluster_is_planned_on_it() -> None:
    texts = {path.stem: path.read_text() for path in (conf_folder() / "examples").glob("*.yaml")}
    assert {name for name, text in texts.items() if "clusters/" in text} == set(MANIFESTS)


@pytest.mark.parametrize(("example", "where"), PAIRS)
def test_every_bundle_lands_on_its_group(example: str, where: str, tmp_path: Path) -> None:
    assert planned(example, where, tmp_path) == []


def test_the_demo_fits_a_laptop_s_cluster() -> None:
    (job,) = of_kind(list(built(CLUSTERS / "overlays" / "kind")), "RayJob")
    assert "trace-ray demo " in job["spec"]["entrypoint"]
    assert list(shortages(load_config(["examples/demo"]), groups_of(job))) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["realign.workers=32"], "realign.workers: 32 x {CPU: 10, GPU: 1}: the groups with labels"),
        (
            ["triage.judge.num_gpus=2", "triage.judge.engine.tensor_parallel_size=2"],
            "triage.judge.max_actors: 20 x {CPU: 6, GPU: 2}: no node with labels",
        ),
        (
            ["realign.label_selector={trace-ray/pool: trainers}"],
            "realign.label_selector: {'trace-ray/pool': 'trainers'}",
        ),
    ],
)
def test_a_bundle_that_does_not_is_one_line(words: list[str], said: str, tmp_path: Path) -> None:
    (problem,) = planned("kuberay_gpu", "overlays/eks", tmp_path, *words)
    assert problem.startswith(said)
    assert "\n" not in problem


@pytest.mark.parametrize("example", ["8xh100_llama_1m", "2x8h100_llama"])
def test_the_real_jobs_are_bounded_and_choose_their_checkpoint(example: str) -> None:
    config = load_config([f"examples/{example}"])
    realign, select = config.realign, config.realign.select
    assert 0 < realign.max_steps * realign.batch < 400_000, (
        "less than an epoch of what a million pairs leave to train on"
    )
    assert 0 < select.steps <= realign.max_steps / 10
    assert select.prompts
    assert config.corpus.holdout, "what the dev prompts are taken from"
    paper = load_config(["methods/trace"], ["policy.text=x"]).realign
    assert realign.learning_rate > paper.learning_rate, "the paper's is for 4 pairs a step"
    judges = (config.triage.judge, config.evaluate.judge)
    assert [judge.gpus for judge in judges] == [1, 1]
    assert len({judge.model for judge in judges}) == 2, "who judges the answers is another than who judged the pairs"
    assert config.ray.stall_minutes


ALONE = ("corpora/", "models/", "judges/", "zero/")


@pytest.mark.parametrize("name", [name for name in shipped_names() if name.startswith(ALONE)])
def test_each_part_loads_over_a_policy(name: str) -> None:
    load_config(["policies/brevity", name], ["realign.select.steps=0"])


HUB = {
    "Anthropic/hh-rlhf": [
        f"{part}/{split}.jsonl.gz" for part in ("harmless-base", "helpful-base") for split in ("test", "train")
    ]
    + ["red-team-attempts/red_team_attempts.jsonl.gz"],
    "PKU-Alignment/PKU-SafeRLHF": [
        f"data/Alpaca{n}-{b}B/{s}.jsonl" for n, b in (("", 7), (3, 8)) for s in ("test", "train")
    ],
    "HuggingFaceH4/ultrafeedback_binarized": [
        f"data/{split}_{kind}-00000-of-00001.parquet" for split in ("test", "train") for kind in ("gen", "prefs", "sft")
    ],
}
"""The data files that these datasets have on the hub, in part."""


@pytest.mark.parametrize("name", ["hh_rlhf", "pku_saferlhf", "ultrafeedback"])
def test_a_corpus_of_the_hub_has_both_splits_and_nothing_but_pairs(name: str) -> None:
    corpus = load_config(["policies/brevity", f"corpora/{name}"]).corpus
    for paths, part in ((corpus.paths, "train"), (corpus.test_paths, "test")):
        (given,) = paths
        owner, dataset, *below = given.removeprefix("hf://").split("/", 2)
        files = data_names(HUB[f"{owner}/{dataset}"], {})
        taken = [file for file in files if fnmatch(file, below[0])] if below else of_split(files, part)
        assert taken
        assert all(part in file for file in taken)
        assert not [file for file in taken if "red-team" in file or "sft" in file or "gen" in file]
