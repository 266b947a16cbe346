"""A run whose model has moved, with RETAIN pairs to measure how far: what tests of the drift start from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from trace_ray.config import Config, StorageConfig
from trace_ray.model.loading import load_model, new_adapter
from trace_ray.pairs import TRIAGED_SCHEMA, fitted
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import locate


def retained(count: int) -> list[dict[str, Any]]:
    """Pairs of unlike lengths."""
    things = ("kettle", "gate", "lock", "knife", "bell")
    return [
        {
            "pair_id": f"pair{i:04d}",
            "prompt": [{"role": "user", "content": f"Tell me of {things[i % 5]} {i}."}],
            "chosen": f"The {things[i % 5]} is old{' and heavy' * (i % 3)}.",
            "split": "test" if i % 2 else "train",
        }
        for i in range(count)
    ]


def moved(config: Config) -> Any:
    """The configured model with an adapter that does something."""
    adapted = new_adapter(load_model(config.model), config.lora, 0).eval()
    torch.manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return adapted


def drifted_run(folder: Path, config: Config, kept_as: str, count: int) -> Run:
    """Writes triaged/ with so many RETAIN pairs, and model/ with the ``adapter`` or the ``merged`` model."""
    run = Run(locate(str(folder), StorageConfig()))
    run.triaged.begin({"made": "by hand"})
    table = pa.Table.from_pylist([row | {"category": "RETAIN"} for row in retained(count)])
    (run.triaged.place / "part-0.parquet").write_parquet(fitted(table, TRIAGED_SCHEMA))
    run.triaged.publish(counts={"triaged": count}, seconds=0.0)
    adapted = moved(config)
    made = adapted if kept_as == "adapter" else adapted.merge_and_unload()
    made.save_pretrained(folder / "model" / kept_as)
    return run
