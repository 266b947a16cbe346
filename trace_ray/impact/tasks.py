"""What the impact stage's tasks do on a worker: each a function of the run's folder and its arguments. No Ray here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trace_ray.config import Config, ImpactConfig
from trace_ray.corpus.noise import noisy_table
from trace_ray.impact.tally import Tally, tally
from trace_ray.model.kept import MODEL, kept
from trace_ray.runs.artifacts import ADAPTER_INIT, REFUSED, SCORES, Run
from trace_ray.runtime import metrics
from trace_ray.storage import traffic
from trace_ray.storage.location import Location, upload_folder
from trace_ray.storage.staging import download_folder

GOLD, RETAIN_SAMPLE, DIRECTION = "gold.parquet", "retain.parquet", "direction.json"
"""In impact/. ``direction.json`` is written after the parts that it lists."""


def use_resources(impact: ImpactConfig) -> Any:
    """Uses the cores this task was given; returns the device."""
    import torch

    torch.set_num_threads(max(1, int(impact.num_cpus)))
    return torch.device("cuda" if impact.gpus and torch.cuda.is_available() else "cpu")


def make_adapter(place: Location, config: Config) -> dict[str, int]:
    """Writes the adapter that every scoring shard and the training start from; returns its requests to object stores."""
    from trace_ray.model.loading import load_model, new_adapter

    use_resources(config.impact)
    model = new_adapter(load_model(config.model), config.lora, config.impact.seed)
    upload_folder(lambda folder: model.save_pretrained(folder, safe_serialization=True), place)
    return traffic.take()


def theta_ref(run: Run, config: Config, *, trainable: bool) -> Any:
    """Returns the model at theta_ref in evaluation mode on this task's device: with the initial adapter, or bare for full.

    Args:
        trainable: what is trained requires grad; else nothing does.
    """
    from trace_ray.model.flat import choose_packing
    from trace_ray.model.fused import fuse
    from trace_ray.model.loading import load_adapter, load_model
    from trace_ray.model.modes import checkpoint_layers
    from trace_ray.model.probe import check_log_probs

    device = use_resources(config.impact)
    place = run.impact.place / ADAPTER_INIT

    def make() -> Any:
        if config.impact.parameters == "full":
            model = load_model(config.model).requires_grad_(True)
        else:
            with download_folder(place) as folder:
                model = load_adapter(load_model(config.model), folder, trainable=True)
        model = model.eval().to(device)
        check_log_probs(model, config.model.path)
        choose_packing(model, config.model.packing, device)
        fuse(model, config.model.kernels, device)
        checkpoint_layers(model, config.impact.gradient_checkpointing)
        return model

    model = kept(MODEL, f"{place.uri} {config.model} {config.impact.parameters}", make)
    lora = config.impact.parameters == "lora"
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trainable and (not lora or "lora_" in name))
    return model


def gold_shard(run: Run, config: Config, start: int, stop: int) -> Iterator[dict[str, Any]]:
    """Yields the summed gradient of gold rows start..stop in parts of at most ``part_bytes``, the same for every shard."""
    from trace_ray.impact.budgets import gradient_budget
    from trace_ray.impact.direction import gold_sum

    model = theta_ref(run, config, trainable=True)
    rows = (run.impact.place / GOLD).read_parquet().slice(start, stop - start).to_pylist()
    summed = gold_sum(model, rows, config.impact, config.objective.beta, gradient_budget(config, model))
    for names in split_parts({name: g.numel() * 4 for name, g in summed.items()}, config.impact.part_bytes):
        yield {name: summed.pop(name).cpu().numpy() for name in names}


def split_parts(sizes: Mapping[str, int], part_bytes: int) -> list[list[str]]:
    """Returns the names in order, in parts of at most ``part_bytes`` (or one name).

    >>> split_parts({"a": 3, "b": 2, "c": 9, "d": 1}, 5)
    [['a', 'b'], ['c'], ['d']]
    """
    parts: list[list[str]] = []
    filled = 0
    for name, size in sizes.items():
        if not parts or filled + size > part_bytes:
            parts.append([])
            filled = 0
        parts[-1].append(name)
        filled += size
    return parts


def sum_part(place: Location, scale: float, *parts: Mapping[str, Any]) -> dict[str, Any]:
    """Writes one part of the direction, scale x the sum of the shards' parts; returns file, squared norm, health, requests."""
    import numpy as np
    from safetensors.numpy import save

    total = {name: scale * sum(part[name].astype(np.float64) for part in parts) for name in parts[0]}
    place.write_bytes(save({name: value.astype(np.float32) for name, value in total.items()}))
    squared = float(sum((value * value).sum() for value in total.values()))
    return {"file": place.name, "squared": squared, "finite": bool(np.isfinite(squared)), "traffic": traffic.take()}


def read_parts(run: Run, names: Sequence[str]) -> dict[str, Any]:
    """Returns v by parameter name, on CPU, from its stored parts."""
    from safetensors.torch import load

    return {n: v for name in names for n, v in load((run.impact.place / name).read_bytes()).items()}


def read_direction(run: Run) -> dict[str, Any]:
    """Returns v by parameter name, on CPU."""
    return read_parts(run, json.loads((run.impact.place / DIRECTION).read_text())["parts"])


def placed_direction(run: Run, model: Any) -> dict[str, Any]:
    """Returns v by parameter name, each as its parameter is: on its device and in its dtype, in which it is used.

    Of every weight of a model in bfloat16, float32 would take the card twice what the weights do. Parts are read one by one.
    """
    parameters = dict(model.named_parameters())
    names = json.loads((run.impact.place / DIRECTION).read_text())["parts"]
    return {n: v.to(parameters[n]) for part in names for n, v in read_parts(run, [part]).items()}


def curvature_shard(run: Run, config: Config, vector: Mapping[str, Any], start: int, stop: int) -> dict[str, Any]:
    """Returns the Gauss-Newton product of RETAIN rows start..stop, summed over them."""
    import torch

    from trace_ray.impact.budgets import gradient_budget
    from trace_ray.impact.curvature import gauss_newton_product

    model = theta_ref(run, config, trainable=True)
    rows = (run.impact.place / RETAIN_SAMPLE).read_parquet().slice(start, stop - start).to_pylist()
    tensors = {name: torch.tensor(value) for name, value in vector.items()}
    product = gauss_newton_product(model, rows, tensors, batch_tokens=gradient_budget(config, model))
    return {name: value.cpu().numpy() for name, value in product.items()}


@dataclass(frozen=True)
class Shard:
    """Rows start..stop of one part of triaged/; the files made of them bear its name."""

    part: Location
    start: int
    stop: int

    @property
    def name(self) -> str:
        return f"{self.part.name.removesuffix('.parquet')}-{self.start:09d}"


@dataclass(frozen=True)
class Shares:
    """Which pairs hashes draw, as the whole run's counts decide.

    Args:
        retain: share of the RETAIN pairs that are trained on; impacts: of the weighed pairs that quantiles are taken of.
    """

    retain: float
    impacts: float = 1.0


def score_rows(run: Run, config: Config, shard: Shard, shares: Shares) -> Tally:
    """Writes the shard's scored rows, if any, and after them its tally, which says that it is done; returns the tally.

    Doing it twice, or in another order, changes nothing.
    """
    from trace_ray.impact.budgets import token_budget
    from trace_ray.impact.rows import refused_table, tokenized_rows
    from trace_ray.impact.scores import Scorer
    from trace_ray.impact.shard import Selection, score_tokens
    from trace_ray.model.budget import trial_batch
    from trace_ray.model.loading import load_chat_tokenizer

    model = theta_ref(run, config, trainable=False)
    place = run.impact.place
    direction = kept("direction", place.uri, lambda: placed_direction(run, model))
    rows = shard.part.read_parquet().slice(shard.start, shard.stop - shard.start)
    triaged = noisy_table(rows, config.corpus.noise)
    selection = Selection(config.objective, shares.retain, config.impact.seed)
    tokenizer = kept("tokenizer", str(config.model), lambda: load_chat_tokenizer(config.model))
    trained, refused = tokenized_rows(selection.rows(triaged), selection.objective, tokenizer)
    budget = token_budget(config, model, lambda n: Scorer(model, direction).score(trial_batch(model, n)))
    scored = score_tokens(trained, selection, model, direction, config.impact, budget)
    if refused:
        (place / REFUSED / f"{shard.name}.parquet").write_parquet(refused_table(refused))
        metrics.count_each("rejects", "reason", [row["reason"] for row in refused], stage="impact")
    if scored.num_rows:
        (run.scored.place / f"{shard.name}.parquet").write_parquet(scored)
    told = tally(scored, refused, config.objective.weighed, config.impact.seed, shares.impacts)
    (place / SCORES / f"{shard.name}.json").write_text(told.dump())
    metrics.count_each("pairs_scored", "category", scored["category"].to_pylist())
    return told


def spans(rows: int, tasks: int) -> Sequence[tuple[int, int]]:
    """Returns (start, stop) of at most ``tasks`` shards of equal size that cover ``rows``.

    >>> spans(7, 3)
    [(0, 3), (3, 6), (6, 7)]
    """
    step = max(1, -(-rows // max(1, tasks)))
    return [(start, min(rows, start + step)) for start in range(0, rows, step)]
