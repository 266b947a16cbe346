"""Stage 3 on Ray Train: DeepSpeed workers train the model, which is then exported."""

from __future__ import annotations

import json
import time
from typing import Any

import pyarrow.compute as pc

from trace_ray.cluster.actor_pool import ActorPool
from trace_ray.cluster.connection import ensure_ray
from trace_ray.config import Config, ModelConfig, settings
from trace_ray.errors import UserError
from trace_ray.model.kept import MODEL, kept, model_facts
from trace_ray.realign.checkpoints import CHECKPOINTS
from trace_ray.realign.export_stage import publish_model, publish_training
from trace_ray.realign.generation import check_generation
from trace_ray.realign.ray_train import fit
from trace_ray.realign.reference import STORED, reference_place
from trace_ray.realign.trackers import check_trackers
from trace_ray.realign.watch import steps_shown
from trace_ray.runs.anew import begin
from trace_ray.runs.artifacts import Run
from trace_ray.runs.identity import model_identity
from trace_ray.runtime.progress import Meter
from trace_ray.storage import traffic
from trace_ray.storage.staging import local_model


def realign_inputs(run: Run, config: Config) -> dict[str, Any]:
    """Returns everything that the trained weights depend on."""
    parts = (
        ("objective", config.objective),
        ("realign", config.realign),
        ("model", config.model),
        ("lora", config.lora),
    )
    merged: dict[str, Any] = {"scored": run.scored.manifest()["inputs_hash"]}
    merged["model files"] = model_identity(config.model.path, config.model.revision, config.storage)
    for name, node in parts:
        merged |= settings(node, name)
    return merged


def run_realign(run: Run, config: Config) -> None:
    """Writes realign/ (checkpoints, metrics) and model/ (adapter, merged)."""
    inputs = realign_inputs(run, config)
    started = time.monotonic()
    if not begin(run, "realign", inputs):
        return
    traffic.take()  # the stages before are told already
    if not run.realign.done():
        trained = train(run, config).path.rstrip("/").rsplit("/", 1)[-1]
        publish_training(run, config, f"{CHECKPOINTS}/{trained}", time.monotonic() - started)
    publish_model(run, config, started)


def train(run: Run, config: Config) -> Any:
    """Trains, or goes on from the last checkpoint of an earlier process; returns the last checkpoint.

    Raises: UserError for a mistake that a worker met; it is not retried.
    """
    check_model(config.model)
    check_trackers(config.realign.trackers)
    ensure_ray(config.ray)
    if config.realign.stores_reference:
        _store_reference(run, config)
    with steps_shown(run):
        return fit(run, config)


def check_model(model: ModelConfig) -> None:
    """Raises UserError where there is no model, before any worker starts: one worker's failure would be retried."""
    from transformers import AutoConfig

    from trace_ray.model.loading import load_tokenizer

    load_tokenizer(model.path, model.revision, model.trusted)
    try:
        AutoConfig.from_pretrained(local_model(model.path), revision=model.revision, trust_remote_code=model.trusted)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError("model.path", model.path, f"no model configuration there: {reason}") from None
    check_generation(model)


def _store_reference(run: Run, config: Config) -> None:
    """Stores what the KL takes of the reference for the anchored responses, part by part of scored/, on actors that keep it."""
    responses = config.objective.compared("RETAIN")
    names = run.scored.manifest()["parts"] if responses else []
    realign, finished = config.realign, {part.name for part in reference_place(run).files(".parquet")}
    calls = [(name, (run, config, name, *responses)) for name in names if name not in finished]
    gpus = realign.gpus
    with (
        ActorPool(realign.num_cpus, gpus, realign.label_selector, facts=model_facts) as pool,
        Meter("realign: reference distributions", len(names), "parts") as meter,
    ):
        meter.skip(len(names) - len(calls))
        for _ in pool.each(_store_part, calls):
            meter.advance(1)
        if calls:
            facts = {"parts": len(calls), "model_loads": pool.loads, "run_as": pool.run_as}
            (run.realign.place / STORED).write_text(json.dumps(facts))


def _store_part(run: Run, config: Config, name: str, response: str) -> None:
    import torch

    from trace_ray.model.budget import kept_budget, trial_batch
    from trace_ray.realign.reference import hidden, hidden_table, top_k, top_k_table

    realign = config.realign
    torch.set_num_threads(max(1, int(realign.num_cpus)))
    columns = ["pair_id", "category", "prompt_ids", f"{response}_ids"]
    table = (run.scored.place / name).read_parquet(columns)
    rows = table.filter(pc.equal(table["category"], "RETAIN")).to_pylist()
    model = kept(MODEL, str(config.model), lambda: _reference_model(config))
    stores_hidden = realign.kl_reference == "hidden"

    def trial(tokens: int) -> object:
        batch = trial_batch(model, tokens)
        return hidden(model, batch) if stores_hidden else top_k(model, batch, realign.top_k)

    budget = kept_budget(
        f"{config.model} {realign}",
        realign.micro_tokens,
        next(model.parameters()).device,
        trial,
        longest=config.model.max_length,
        setting="realign.micro_tokens",
        remedy="lower model.max_length",
    )
    if stores_hidden:
        made = hidden_table(model, rows, response, budget)
    else:
        made = top_k_table(model, rows, response, realign.top_k, budget)
    (reference_place(run) / name).write_parquet(made)


def _reference_model(config: Config) -> Any:
    """Returns the model before training where this worker runs it, run as the settings say."""
    import torch

    from trace_ray.model.flat import choose_packing
    from trace_ray.model.fused import fuse
    from trace_ray.model.loading import load_model

    device = torch.device("cuda" if config.realign.on_gpu else "cpu")
    model = load_model(config.model).to(device)
    choose_packing(model, config.model.packing, device)
    fuse(model, config.model.kernels, device)
    return model
