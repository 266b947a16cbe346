"""The exported dataset: sides as the new policy has them, weights kept, read back with pyarrow's own dataset reader."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as pads
import pytest

from trace_ray.config import StorageConfig
from trace_ray.errors import UserError
from trace_ray.pairs import SCORED_SCHEMA
from trace_ray.runs.artifacts import Run
from trace_ray.runs.export_pairs import export_pairs
from trace_ray.storage.location import locate


def row(number: int, category: str, corrected: str | None = None) -> dict[str, object]:
    return {
        "row": number,
        "pair_id": str(number),
        "source": "s",
        "split": "train",
        "prompt": [{"role": "user", "content": f"p{number}"}],
        "chosen": f"c{number}",
        "rejected": f"r{number}",
        "corrected": corrected,
        "category": category,
        "weight": number / 2,
    }


def exported(folder: Path) -> tuple[int, int]:
    """Writes a scored run of two parts and exports it to ``folder/out``."""
    run = Run(locate(str(folder / "run"), StorageConfig()))
    run.scored.begin({})
    rows = [row(1, "INVERT"), row(2, "PUNISH", "y2"), row(3, "PUNISH"), row(4, "RETAIN")]
    for number, part in enumerate((rows[:2], rows[2:])):
        table = pa.Table.from_pylist(part, schema=SCORED_SCHEMA)
        (run.scored.place / f"part-{number}.parquet").write_parquet(table)
    run.scored.publish(counts={}, seconds=0)
    return export_pairs(run, locate(str(folder / "out"), StorageConfig()))


def test_sides_and_weights(tmp_path: Path) -> None:
    assert exported(tmp_path) == (3, 1)
    found = pads.dataset(tmp_path / "out").to_table().sort_by("pair_id").to_pylist()
    sides = [
        (pair["prompt"][0]["content"], pair["chosen"][0]["content"], pair["rejected"][0]["content"]) for pair in found
    ]
    assert sides == [("p1", "r1", "c1"), ("p2", "y2", "c2"), ("p4", "c4", "r4")]
    assert [pair["weight"] for pair in found] == [0.5, 1.0, 2.0]
    assert {turn["role"] for pair in found for turn in pair["chosen"] + pair["rejected"]} == {"assistant"}


def test_a_used_folder_is_left_alone(tmp_path: Path) -> None:
    exported(tmp_path)
    run, storage = Run(locate(str(tmp_path / "run"), StorageConfig())), StorageConfig()
    with pytest.raises(UserError, match="out: holds files already: name another folder"):
        export_pairs(run, locate(str(tmp_path / "out"), storage))
    with pytest.raises(UserError, match=r"part-0\.parquet: a file: name a folder"):
        export_pairs(run, locate(str(tmp_path / "out" / "part-0.parquet"), storage))


def test_trl_trains_on_it_as_it_is(tmp_path: Path) -> None:
    """TRL renders, tokenizes and trains; weights and the other columns are there for whoever wants them."""
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    exported(tmp_path)
    pairs = load_dataset(
        "parquet", data_files=str(tmp_path / "out" / "*.parquet"), split="train", cache_dir=str(tmp_path)
    )
    assert {"weight", "category", "source", "pair_id"} < set(pairs.column_names)
    settings = DPOConfig(
        output_dir=str(tmp_path / "trl"),
        max_steps=2,
        per_device_train_batch_size=3,
        bf16=False,
        use_cpu=True,
        report_to=[],
    )
    policy = Path(__file__).parents[2] / "trace_ray" / "synth" / "models" / "policy"
    model = AutoModelForCausalLM.from_pretrained(policy)
    before = model.lm_head.weight.detach().clone()
    trainer = DPOTrainer(
        model=model, args=settings, train_dataset=pairs, processing_class=AutoTokenizer.from_pretrained(policy)
    )
    losses = [entry["loss"] for entry in (trainer.train(), trainer.state.log_history)[1] if "loss" in entry]
    assert trainer.state.global_step == 2
    assert all(0 < loss < 1 for loss in losses)
    assert not before.equal(model.lm_head.weight)
