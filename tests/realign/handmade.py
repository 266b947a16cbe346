"""A scored run made by hand in seconds, and worker processes without Ray: what the training tests stand on."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from tests.support.ranks import run_ranks
from trace_ray.config import (
    Config,
    LoraSettings,
    ModelConfig,
    ObjectiveConfig,
    RealignConfig,
    StorageConfig,
    TermConfig,
)
from trace_ray.config.load import dump_config
from trace_ray.config.policy import PolicyConfig
from trace_ray.impact.tally import tally
from trace_ray.impact.weights import impact_summary
from trace_ray.model.log_probs import response_log_probs
from trace_ray.model.packing import pack_each
from trace_ray.pairs import REJECT_SCHEMA, RESPONSE_NAMES, SCORED_SCHEMA, TRIAGED_SCHEMA
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import locate

VOCABULARY = 5003  # the embedding is large enough for ZeRO-3 to shard it, and prime
CATEGORIES = ("INVERT", "PUNISH", "RETAIN")


def tiny_model(folder: Path, family: str = "llama") -> Path:
    """Writes a random model with a tokenizer; its vocabulary is no multiple of anything."""
    from transformers import AutoTokenizer, Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

    shape: dict[str, Any] = {
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
    }
    shape |= {"vocab_size": VOCABULARY, "max_position_embeddings": 256}
    torch.manual_seed(0)
    if family == "gemma2":
        caps = {"final_logit_softcapping": 2.0, "attn_logit_softcapping": None}  # sdpa knows none in attention
        config = Gemma2Config(**shape, **caps, num_key_value_heads=1, head_dim=8)
        model = Gemma2ForCausalLM(config)
    else:
        model = LlamaForCausalLM(LlamaConfig(**shape, num_key_value_heads=3, tie_word_embeddings=True))
    model.save_pretrained(folder)
    shipped = Path(__file__).parents[2] / "trace_ray" / "synth" / "models" / "policy"
    AutoTokenizer.from_pretrained(shipped).save_pretrained(folder)
    return folder


def tiny_config(model: Path, objective: ObjectiveConfig | None = None, **realign: Any) -> Config:
    """Returns a configuration: LoRA without dropout, all else as given."""
    defaults: dict[str, Any] = {"learning_rate": 1e-2, "warmup_steps": 2, "batch": 4, "trackers": ()}
    return Config(
        model=ModelConfig(path=str(model), max_length=64),
        lora=LoraSettings(r=4, alpha=8, dropout=0.0, target_modules=("q_proj", "v_proj", "down_proj")),
        policy=PolicyConfig(name="test", text="Be brief."),
        objective=objective or ObjectiveConfig(alpha_kl=5.0),
        realign=RealignConfig(**(defaults | realign)),
    )


def sft(prefer: str) -> TermConfig:
    """Returns a term that raises a response."""
    return TermConfig(loss="sft", prefer=prefer)


def scored_rows(
    model: Any, count: int, categories: tuple[str, ...] = CATEGORIES, seed: int = 0
) -> list[dict[str, Any]]:
    """Returns random pairs of unlike lengths with the model's own log-probs as reference."""
    rng = random.Random(seed)
    rows = []
    for i in range(count):
        prompt = [rng.randrange(1, VOCABULARY) for _ in range(rng.randint(2, 9))]
        row: dict[str, Any] = {"row": i, "pair_id": f"pair{i:04d}", "source": "test", "split": "train"}
        row |= {"category": categories[i % len(categories)], "prompt": [{"role": "user", "content": "x"}]}
        row |= {"prompt_ids": prompt, "impact": 1.0, "weight": round(rng.uniform(0.2, 2.0), 3)}
        for name in RESPONSE_NAMES:
            ids = [rng.randrange(1, VOCABULARY) for _ in range(rng.randint(1, 17))]
            with torch.inference_mode():
                logp = response_log_probs(model, pack_each([(prompt, ids)])).item()
            row |= {name: "text", f"{name}_ids": ids, f"{name}_ref_logp": logp, f"{name}_s": 0.5}
        row["weight"] = 1.0 if row["category"] == "RETAIN" else row["weight"]
        rows.append(row)
    return rows


def make_run(
    folder: Path,
    config: Config,
    count: int = 22,
    categories: tuple[str, ...] = CATEGORIES,
    shift: float = 0.0,
    weights: Mapping[str, float] | None = None,
) -> Run:
    """Writes rejects/, triaged/ (no rows: a training reads none of them) and scored/, and the initial adapter.

    Args:
        shift: added to the reference's log-probs, as if the policy had moved by as much the other way.
        weights: category -> weight of all its pairs, instead of random ones.
    """
    from trace_ray.model.loading import load_model, new_adapter

    run = Run(locate(str(folder), StorageConfig()))
    model = load_model(config.model)
    rows = scored_rows(model, count, categories)
    rows = [row | {f"{name}_ref_logp": row[f"{name}_ref_logp"] + shift for name in RESPONSE_NAMES} for row in rows]
    rows = [row | {"weight": (weights or {}).get(row["category"], row["weight"])} for row in rows]
    table = pa.Table.from_pylist(rows, schema=SCORED_SCHEMA)
    for artifact in (run.rejects, run.triaged):
        artifact.begin({"made": "by hand"})
    facts = {"policy": {"name": "test", "version": "1", "hash": "0" * 16}, "used": {}, "judge": "rules"}
    counts = {"rows_in": count, "rejects": 0}
    run.rejects.publish(counts=counts, seconds=0.0, schema=REJECT_SCHEMA)
    run.triaged.publish(counts=counts | {"triaged": count}, seconds=0.0, schema=TRIAGED_SCHEMA, **facts)
    run.scored.begin({"rows": count})
    half = count // 2
    for name, part in (("part-0.parquet", table.slice(0, half)), ("part-1.parquet", table.slice(half))):
        (run.scored.place / name).write_parquet(part)
    told = tally(table, [], [name for name in ("INVERT", "PUNISH") if name in categories], 0, 1.0)
    scores = {"summary": impact_summary(told.impacts), "weight_norm": "mean", "response_tokens": told.tokens}
    run.scored.publish(counts={**told.rows, "untrained": 0}, seconds=0.0, **scores)
    new_adapter(model, config.lora, 0).save_pretrained(folder / "impact" / "adapter_init")
    return run


@dataclass(frozen=True)
class Job:
    """One training of ``train_each``: up to ``steps`` steps in all, from the checkpoint ``resume`` if there is one."""

    config: Config
    steps: int
    resume: Path | None = None


def train(run: Run, config: Config, out: Path, workers: int, steps: int, resume: Path | None = None) -> dict[str, Any]:
    """Trains in ``workers`` processes joined by gloo, for ``steps`` steps in all; returns the saved checkpoint."""
    return train_each(run, {"checkpoint": Job(config, steps, resume)}, out, workers)["checkpoint"]


def train_each(run: Run, jobs: Mapping[str, Job], out: Path, workers: int) -> dict[str, dict[str, Any]]:
    """Trains one job after the other in the same ``workers`` processes; returns each one's checkpoint, kept in ``out``.

    Returns: {"weights": name -> tensor, "metrics": rows, "optimizer": name -> tensor, "folder": its path}.
    """
    out.mkdir(parents=True)
    told: list[dict[str, Any]] = []
    for name, job in jobs.items():
        config = replace(job.config, realign=replace(job.config.realign, workers=workers))
        (out / f"{name}.yaml").write_text(dump_config(config))
        told.append({"run": run.place.path, "config": str(out / f"{name}.yaml"), "out": str(out / name)})
        told[-1] |= {"steps": job.steps, "resume": str(job.resume or "")}
    run_ranks(worker, (told,), workers, out)
    return {name: checkpoint(out / name) for name in jobs}


def checkpoint(folder: Path) -> dict[str, Any]:
    """Returns what a checkpoint holds."""
    from safetensors.torch import load_file

    cursor = json.loads((folder / "cursor.json").read_text())
    loaded = {name: load_file(folder / f"{name}.safetensors") for name in ("weights", "optimizer")}
    return {**loaded, "metrics": cursor["metrics"], "folder": folder}


def worker(jobs: list[dict[str, Any]]) -> None:
    """One process of ``train_each``."""
    from trace_ray.config.load import load_config
    from trace_ray.realign.setup import prepare_process

    configs = [load_config([job["config"]]) for job in jobs]
    prepare_process(configs[0].realign)
    torch.distributed.init_process_group("gloo")
    for job, config in zip(jobs, configs, strict=True):
        _train(job, config)


def _train(job: dict[str, Any], config: Config) -> None:
    from trace_ray.realign.checkpoint import save_checkpoint
    from trace_ray.realign.loop import Trainer

    rank, workers = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    trainer = Trainer(Run(locate(job["run"], StorageConfig())), config, rank, workers)
    if job["resume"]:
        trainer.restore(Path(job["resume"]))
    while trainer.step < job["steps"] and not trainer.over:
        trainer.train_step()
        trainer.tell()
    out = Path(job["out"])
    out.mkdir(exist_ok=True)
    save_checkpoint(trainer.deepspeed, trainer.model, out, {"step": trainer.step, "metrics": trainer.metrics})
    torch.distributed.barrier()
